"""Plain bytes of a file that may be gzip or zstd, told by its first bytes.

Input: an open binary file.
Output: blocks of plain bytes.
Errors: Torn when a compressed stream is cut or damaged; a truncated one never just ends.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import zstandard

READ_BYTES = 8 << 10
"""Compressed bytes taken at a time: small, since zstd may turn each byte into thousands."""
PLAIN_READ_BYTES = 64 << 10

_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_GZIP_WINDOW = 31


class Torn(Exception):
    """What is wrong with the compressed stream."""


def decompressed(stream: BinaryIO, on_read: Callable[[int], None]) -> Iterator[bytes]:
    """Blocks of plain bytes; `on_read` is told how many bytes of the file were taken."""
    block = stream.read(READ_BYTES)
    begin = _decompressor(block)
    if begin is None:
        while block:
            on_read(stream.tell())
            yield block
            block = stream.read(PLAIN_READ_BYTES)
        return
    member = begin()
    while block:
        on_read(stream.tell())
        if member.eof:
            member = begin()
        try:
            yield member.decompress(block)
        except (zlib.error, zstandard.ZstdError) as error:
            raise Torn(f"damaged data ({error})") from None
        block = (member.unused_data if member.eof else b"") or stream.read(READ_BYTES)
    if not member.eof:
        raise Torn("an end in the middle of the data")


def _decompressor(magic: bytes) -> Callable[[], Any] | None:
    if magic.startswith(_GZIP_MAGIC):
        return lambda: zlib.decompressobj(_GZIP_WINDOW)
    if magic.startswith(_ZSTD_MAGIC):
        return lambda: zstandard.ZstdDecompressor().decompressobj()
    return None
