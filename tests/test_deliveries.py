"""Deliveries: which offset may be committed, whatever the order of the acknowledgements."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.transport import Deliveries


@given(st.lists(st.integers(1, 5), min_size=1, max_size=12), st.data())
def test_what_is_committed_is_the_unbroken_run_of_acknowledged_batches(sizes: list[int], data: st.DataObject) -> None:
    """Against the definition: the first offset of the first open batch, or the end of the last."""
    deliveries = Deliveries(100)
    lasts = []
    for size in sizes:
        lasts.append(deliveries.next + size - 1)
        deliveries.deliver(lasts[-1])
    acked: set[int] = set()
    for index in data.draw(st.permutations(range(len(lasts)))):
        assert deliveries.ack(lasts[index])
        assert not deliveries.ack(lasts[index])
        acked.add(index)
        run = next((i for i in range(len(lasts)) if i not in acked), len(lasts))
        assert deliveries.committable() == (lasts[run - 1] + 1 if run else None)
    assert not deliveries.ack(99)
