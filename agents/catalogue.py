"""The catalogue of `micro` features: what each is, in which unit, from what, and from which literature.

Output: CATALOGUE in column order of the kernel, INDEX from name to column.
Units: base units for sizes (contracts where the instrument counts contracts), quote units for prices.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tables.layout import WINDOWS_S

_BOOK = "book"
_TRADES = "trades"
_CKS = "Cont, Kukanov, Stoikov (2014), The price impact of order book events"
_VENUE = "venue's definition"


@dataclass(frozen=True, slots=True)
class Feature:
    """One column. T is the Tick, W the look-back; sums run over events in [T - W, T); look_back_s 0: the state at T."""

    name: str
    unit: str
    formula: str
    inputs: tuple[str, ...]
    source: str
    look_back_s: int = 0

    @property
    def is_book_derived(self) -> bool:
        """Whether the value is null while the book is in gap."""
        return _BOOK in self.inputs


def _state() -> list[Feature]:
    depths = [
        Feature(f"{side}_depth_{n}", "base", f"sum of sizes of the best {n} {side} levels", (_BOOK,), "Harris (2003)")
        for side in ("bid", "ask") for n in (5, 10, 20)
    ]  # fmt: skip
    imbalances = [
        Feature(f"queue_imbalance_{n}", "1", f"(B - A) / (B + A), sizes of the best {n} levels of each side", (_BOOK,),
                "Gould, Bonart (2016), Queue imbalance as a one-tick-ahead price predictor")
        for n in (1, 5, 10)
    ]  # fmt: skip
    return [
        Feature("mid_price", "quote", "(best bid + best ask) / 2", (_BOOK,), "Harris (2003)"),
        Feature("microprice", "quote", "bid + spread * bid size / (bid size + ask size)", (_BOOK,),
                "Gatheral, Oomen (2010), Zero-intelligence realized variance estimation"),
        Feature("spread", "quote", "best ask - best bid", (_BOOK,), "Harris (2003)"),
        Feature("spread_bps", "bps", "spread / mid * 10000", (_BOOK,), "Harris (2003)"),
        *depths,
        *imbalances,
        Feature("bid_level_count", "levels", "levels on the bid side", (_BOOK,), "count"),
        Feature("ask_level_count", "levels", "levels on the ask side", (_BOOK,), "count"),
        Feature("book_age_ms", "ms", "T - time of the last applied Snapshot or Delta", (_BOOK,), "as observed"),
        Feature("mark_price", "quote", "last told", ("Ticker",), _VENUE),
        Feature("index_price", "quote", "last told", ("Ticker",), _VENUE),
        Feature("basis_bps", "bps", "(mark - index) / index * 10000", ("Ticker",), "Hull (2018), ch. 3"),
        Feature("open_interest", "base", "last told", ("Ticker",), _VENUE),
        Feature("funding_rate", "1", "last told", ("Funding",), _VENUE),
        Feature("time_to_funding_s", "s", "next funding time - T", ("Funding",), _VENUE),
        Feature("feed_delay_ms", "ms", "ts_recv - ts_event of the last event with a venue time", ("every record",),
                "as observed"),
    ]  # fmt: skip


def _windowed() -> list[Feature]:
    return [
        Feature("log_return", "1", "log(mid at T / mid at T - W)", (_BOOK,), "Campbell, Lo, MacKinlay (1997), 1.4"),
        Feature("vwap", "quote", "sum(price * size) / sum(size); inverse: sum(size) / sum(size / price)", (_TRADES,),
                "Berkowitz, Logue, Noser (1988)"),
        Feature("high", "quote", "highest trade price", (_TRADES,), "extremum"),
        Feature("low", "quote", "lowest trade price", (_TRADES,), "extremum"),
        Feature("trade_count", "trades", "buys + sells", (_TRADES,), "count"),
        Feature("volume", "base", "buy volume + sell volume", (_TRADES,), "sum"),
        Feature("buy_volume", "base", "sum of sizes, aggressor buys", (_TRADES,), "sum"),
        Feature("sell_volume", "base", "sum of sizes, aggressor sells", (_TRADES,), "sum"),
        Feature("signed_volume", "base", "buy volume - sell volume", (_TRADES,), "Lee, Ready (1991)"),
        Feature("buy_sell_ratio", "1", "buy volume / sell volume", (_TRADES,), "ratio"),
        Feature("trade_imbalance", "1", "(buys - sells) / (buys + sells), counts", (_TRADES,),
                "Chordia, Roll, Subrahmanyam (2002), Order imbalance, liquidity, and market returns"),
        Feature("net_aggressor_pressure", "1", "signed volume / volume", (_TRADES,),
                "Chordia, Roll, Subrahmanyam (2002), Order imbalance, liquidity, and market returns"),
        Feature("average_trade_size", "base", "volume / trade count", (_TRADES,), "mean"),
        Feature("order_flow_imbalance", "base",
                "sum per Delta of I[b >= b'] q - I[b <= b'] q' - I[a <= a'] r + I[a >= a'] r', best level", (_BOOK,),
                _CKS),
        Feature("churn_rate", "1/s", "levels that Deltas changed / W", (_BOOK,), "Hasbrouck, Saar (2013)"),
    ]  # fmt: skip


CATALOGUE: tuple[Feature, ...] = (
    *_state(),
    *(
        replace(feature, name=f"{feature.name}_{seconds}s", look_back_s=seconds)
        for feature in _windowed()
        for seconds in WINDOWS_S
    ),
)
INDEX: dict[str, int] = {feature.name: column for column, feature in enumerate(CATALOGUE)}
