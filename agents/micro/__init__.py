"""The `micro` features, one function each, grouped as people look for them; importing this registers them all.

Input: a row that has closed the bucket before Tick T (`row[TICK]`), with its best levels filled in; and an argument:
a window in steps of 100 ms, a depth in levels, or nothing.
Output: the value; null is NaN with the reason in the row's notes.
Units: each function's decorator names its own. Integers until the last formula; floats in a fixed order of IEEE
operations, and no function of libm but the exact square root.
"""

from agents.micro import book, flow, position, price, time, venue

__all__ = ["book", "flow", "position", "price", "time", "venue"]
