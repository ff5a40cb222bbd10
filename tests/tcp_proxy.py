"""A bad line between real programs: a TCP proxy that is slow, resets, stands still or is away, as it is told.

Units: seconds; bytes a second in each direction of each connection; shares of the pieces that are passed on.
"""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from typing import Final, Self

PIECE: Final = 16_384
RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER that makes `close` send RST."""


class TcpProxy:
    """Listens on `port` inside the `with` block and passes everything on to `target` on this machine."""

    def __init__(self, seed: int, target: int) -> None:
        self.target = target
        self.delay_s, self.bytes_per_s, self.resets = 0.0, float("inf"), 0.0
        self.is_away = False
        """Connections are reset, and so are new ones."""
        self.reset_count = 0
        self._flowing = threading.Event()
        self._flowing.set()
        self._chance = random.Random(seed)
        self._ends: set[socket.socket] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._flowing.set()
        self.cut()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def cut(self) -> None:
        """Reset every connection there is."""
        with self._lock:
            ends, self._ends = self._ends, set()
        for end in ends:
            _reset(end)

    def hold(self) -> None:
        """Nothing passes any more, and nobody is told: a cable that was pulled."""
        self._flowing.clear()

    def release(self) -> None:
        """What was held passes."""
        self._flowing.set()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                if self.is_away:
                    raise ConnectionRefusedError
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                _reset(client)
                continue
            with self._lock:
                self._ends |= {client, server}
            for source, sink in ((client, server), (server, client)):
                self._threads.append(threading.Thread(target=self._pump, args=(source, sink)))
                self._threads[-1].start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while piece := source.recv(PIECE):
                self._flowing.wait()
                time.sleep(self.delay_s + len(piece) / self.bytes_per_s)
                if self.is_away or self._chance.random() < self.resets:
                    self.reset_count += 1
                    break
                sink.sendall(piece)
        except OSError:
            pass
        with self._lock:
            self._ends -= {source, sink}
        _reset(source)
        _reset(sink)


def _reset(end: socket.socket) -> None:
    try:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    end.close()
