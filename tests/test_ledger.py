"""The ledger: which offset may be committed, whatever the order of the acknowledgements."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.transport import Ledger


@given(st.lists(st.integers(1, 5), min_size=1, max_size=12), st.data())
def test_what_is_committed_is_the_unbroken_run_of_acknowledged_batches(sizes: list[int], data: st.DataObject) -> None:
    """Against the definition: the first offset of the first open batch, or the end of the last."""
    ledger = Ledger(100)
    lasts = []
    for size in sizes:
        lasts.append(ledger.next + size - 1)
        ledger.deliver(lasts[-1])
    acked: set[int] = set()
    for index in data.draw(st.permutations(range(len(lasts)))):
        assert ledger.ack(lasts[index])
        assert not ledger.ack(lasts[index])
        acked.add(index)
        run = next((i for i in range(len(lasts)) if i not in acked), len(lasts))
        assert ledger.committable() == (lasts[run - 1] + 1 if run else None)
    assert not ledger.ack(99)
