"""Returns after cost: what trading on the predictions would have made, told simply.

Input: positions (-1, 0, 1), the return of each row's horizon, when it is entered.
Output: `Returns`.
Units: returns as fractions of the capital; costs in basis points (1e-4) of what is bought or sold; times in ns UTC.

A row's position is the sign of its prediction, entered at `label_t0` and held for the label's horizon H, also where a
barrier would have ended it before. Rows closer together than H overlap. So the capital of an instrument is divided into
K = H / step equal books (step: the grid that the rows lie on), and a book trades every K-th row: what it holds does
not overlap. A book pays for each change of its position: from one row to the next where the one begins when the other
ends, else out at the end and in again at the next; in at its first row and out behind its last. Returns are added, not
compounded; what is told is the mean over all books and instruments. Chance phases and double counting of overlapping
returns are thereby left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from replay.evaluation.metrics import Measured
from schemas.columns import Int64

Floats = NDArray[np.float64]
BPS = 1e-4
NAMES = ("gross", "cost", "net", "net_per_row", "sharpe_per_row", "turnover", "hit_rate", "held", "break_even_bps")


@dataclass(slots=True)
class Returns:
    """`curve` [m] is the net return up to the exits at `time` [m], ascending."""

    measured: Measured
    books: int
    time: Int64
    curve: Floats


def unknown(reason: str) -> Returns:
    """No returns, and why."""
    measured = Measured()
    for name in NAMES:
        measured.put(name, None, reason)
    return Returns(measured, 0, np.empty(0, np.int64), np.empty(0))


def after_cost(
    position: Floats, gain: Floats, instrument: Int64, entry: Int64, *, horizon_ns: int, cost_bps: float
) -> Returns:
    """Of m rows; those without a return are not traded."""
    known = ~np.isnan(gain)
    position, gain, instrument, entry = position[known], gain[known], instrument[known], entry[known]
    if not len(gain):
        return unknown("no row has a return")
    position = np.sign(position)
    order, book = _books(instrument, entry, horizon_ns)
    position, gain, entry = position[order], gain[order], entry[order]
    change = _changes(position, entry, book, horizon_ns)
    books = int(book[-1]) + 1
    earned, paid = position * gain, change * cost_bps * BPS
    net = earned - paid
    held = position != 0
    found = Measured()
    found.put("gross", earned.sum() / books)
    found.put("cost", paid.sum() / books)
    found.put("net", net.sum() / books)
    found.put("net_per_row", net.mean())
    spread = net.std()
    found.put("sharpe_per_row", net.mean() / spread if spread > 0 else None, "every row has the same net return")
    found.put("turnover", change.mean())
    told = held & (gain != 0)
    hits = (earned[told] > 0).mean() if told.any() else None
    found.put("hit_rate", hits, "no row with a position has a return other than 0")
    found.put("held", held.mean())
    traded = change.sum()
    found.put("break_even_bps", earned.sum() / traded / BPS if traded else None, "nothing is traded")
    by_exit = np.argsort(entry, kind="stable")
    return Returns(found, books, entry[by_exit] + horizon_ns, np.cumsum(net[by_exit]) / books)


def _books(instrument: Int64, entry: Int64, horizon_ns: int) -> tuple[NDArray[np.intp], Int64]:
    """The rows in order of book and entry, and the number of each one's book, from 0."""
    times = np.unique(entry)
    step = int(np.gcd.reduce(np.diff(times))) if len(times) > 1 else horizon_ns
    phases = -(-horizon_ns // step)
    phase = (entry - times[0]) // step % phases
    order = np.lexsort((entry, phase, instrument))
    starts = np.zeros(len(order), np.int64)
    starts[1:] = (np.diff(instrument[order]) != 0) | (np.diff(phase[order]) != 0)
    return order, np.cumsum(starts)


def _changes(position: Floats, entry: Int64, book: Int64, horizon_ns: int) -> Floats:
    """How much of a book's capital is bought or sold at each row's entry, and at its exit where nothing follows it."""
    follows = np.zeros(len(position), np.bool_)
    follows[1:] = (book[1:] == book[:-1]) & (entry[1:] == entry[:-1] + horizon_ns)
    before = np.where(follows, np.roll(position, 1), 0.0)
    is_followed = np.append(follows[1:], False)
    change: Floats = np.abs(position - before) + np.where(is_followed, 0.0, np.abs(position))
    return change
