"""What is said to Redis about the newest vectors: whole chunks of vectors as the bytes of few commands.

`replacing` writes a chunk in a transaction that Redis does not run if the partition's writer key has been touched since
it was last watched: only its owner wrote since, so what it writes is newer. `comparing` writes what is newer than what
Redis has, decided there for each value.

Input: vectors' bytes as on the features topic; they begin with the five bytes of the wire format, instrument and time.
Output: bytes in Redis's protocol, and how many replies they bring.
State: the written form of each instrument's key.
Units: lifetime in s.
Source: Redis protocol specification; Redis documentation, "Transactions", "Optimistic locking using check-and-set".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

REPLACING_REPLIES: Final = 6
COMPARED_AT_ONCE: Final = 50
"""Vectors of one script call. What goes through a script is copied into its language: with more at once Redis is
several times slower."""

_EXPIRE: Final = b"for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, ARGV[1]) end"

# The time of a vector is a long of nine bytes behind the instrument, which begins with its length in one byte or two.
# The sums of bytes' differences are exact in doubles. A value of another shape is no vector, and replaced.
_COMPARE: Final = b"""
local call, byte, sub = redis.call, string.byte, string.sub
local token, ttl, count = ARGV[1], ARGV[2], tonumber(ARGV[3])
local function is_newer(new, old)
  local length, more = byte(new, 6, 7)
  local at = 7
  if length > 127 then length, at = length - 128 + 128 * more, 8 end
  at = at + length / 2
  if sub(new, 6, at - 1) ~= sub(old, 6, at - 1) then return true end
  local a, b, c, d, e, f, g, h, i = byte(new, at, at + 8)
  local j, k, l, m, n, o, p, q, r = byte(old, at, at + 8)
  if not r then return true end
  local high = ((i - r) * 128 + h - q) * 128 + g - p
  local low = ((((f - o) * 128 + e - n) * 128 + d - m) * 128 + c - l) * 16384 + (b - k) * 128 + a - j
  return high > 0 or high == 0 and low > 0
end
local answer = {call('GET', KEYS[1]) == token and 1 or 0}
call('SET', KEYS[1], token, 'EX', ttl)
local held = call('MGET', unpack(KEYS, 2, count + 1))
for row = 1, count do
  local new, old = ARGV[row + 3], held[row]
  if old and not is_newer(new, old) then
    answer[#answer + 1] = row
  else
    call('SET', KEYS[row + 1], new, 'EX', ttl)
    local json, hash = ARGV[row + count + 3], KEYS[row + count + 1]
    if json then
      local fields = cjson.decode(json)
      call('DEL', hash)
      for first = 1, #fields, 1000 do
        call('HSET', hash, unpack(fields, first, math.min(first + 999, #fields)))
      end
      call('EXPIRE', hash, ttl)
    end
  end
end
return answer
"""


class Chunk(NamedTuple):
    """Vectors to put, at most one per instrument: times in ns, bytes of the topic, and a readable hash's fields each,
    as a JSON list of names and values in turn; or none."""

    instruments: Sequence[str]
    times: Sequence[int]
    values: Sequence[bytes]
    fields: Sequence[bytes]


def latest_key(feature_set_id: str, instrument: str) -> str:
    """Key of an instrument's newest vector."""
    return f"latest:{feature_set_id}:{instrument}"


def hash_key(instrument: str) -> str:
    """Key of an instrument's readable hash."""
    return f"features:{instrument}"


def writer_key(feature_set_id: str, partition: int) -> str:
    """Key that whoever puts vectors of a partition writes, too."""
    return f"latest-writer:{feature_set_id}:{partition}"


class Frames:
    """Commands of one writer, known by its token, for one feature set and partition."""

    def __init__(self, feature_set_id: str, partition: int, token: bytes, ttl_s: int) -> None:
        self._feature_set_id = feature_set_id
        self._token, self._ttl = _bulk(token), _bulk(b"%d" % ttl_s)
        self._writer = _bulk(writer_key(feature_set_id, partition).encode())
        self._watch = _command(b"WATCH", self._writer) + _command(b"GET", self._writer)
        self._keys: dict[str, bytes] = {}

    def replacing(self, chunk: Chunk) -> bytes:
        """A transaction that puts a chunk. The fourth reply is none if it was not run; the last is the writer's token,
        from when on the key is watched again."""
        keys = self._keys_of(chunk.instruments)
        pairs: list[bytes] = [b"*%d\r\n$4\r\nMSET\r\n" % (2 * len(keys) + 3), self._writer, self._token]
        for key, value in zip(keys, chunk.values, strict=True):
            pairs += (key, b"$%d\r\n" % len(value), value, b"\r\n")
        expire = _script(_EXPIRE, [self._writer, *keys], [self._ttl])
        return b"".join((_command(b"MULTI"), *pairs, *expire, _command(b"EXEC"), self._watch))

    def comparing(self, chunk: Chunk) -> tuple[bytes, int]:
        """Put of a chunk what is newer. All replies but the first and the last two are lists: whether the writer key
        had this writer's token, then the rows that were not put, counted from 1 within their COMPARED_AT_ONCE. The last
        is the writer's token as in `replacing`."""
        parts = [_command(b"UNWATCH")]  # our own writing would count as another's
        for first in range(0, len(chunk.instruments), COMPARED_AT_ONCE):
            rows = slice(first, first + COMPARED_AT_ONCE)
            keys = [self._writer, *self._keys_of(chunk.instruments[rows])]
            if chunk.fields:
                keys += [_bulk(hash_key(instrument).encode()) for instrument in chunk.instruments[rows]]
            given = [_bulk(value) for value in (*chunk.values[rows], *chunk.fields[rows])]
            count = _bulk(b"%d" % len(chunk.values[rows]))
            parts += _script(_COMPARE, keys, [self._token, self._ttl, count, *given])
        return b"".join((*parts, self._watch)), 3 + -(-len(chunk.instruments) // COMPARED_AT_ONCE)

    def _keys_of(self, instruments: Sequence[str]) -> list[bytes]:
        known = self._keys
        for instrument in instruments:
            if instrument not in known:
                known[instrument] = _bulk(latest_key(self._feature_set_id, instrument).encode())
        return [known[instrument] for instrument in instruments]


def _bulk(word: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(word), word)


def _command(name: bytes, *bulks: bytes) -> bytes:
    return b"*%d\r\n%b%b" % (1 + len(bulks), _bulk(name), b"".join(bulks))


def _script(script: bytes, keys: Sequence[bytes], given: Sequence[bytes]) -> list[bytes]:
    """Parts of a script call: by its text, for a script that Redis has forgotten would fail inside a transaction."""
    head = b"*%d\r\n" % (3 + len(keys) + len(given))
    return [head, _bulk(b"EVAL"), _bulk(script), _bulk(b"%d" % len(keys)), *keys, *given]
