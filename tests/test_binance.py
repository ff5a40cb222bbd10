"""Binance frames: what each becomes, and the reason for which each bad one is refused."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.venues import FORMATS, format_named
from app.venues.draft import Needs, Reader, Steps, steps_of
from schemas.errors import RecordRefused
from schemas.events import Event, Kind
from schemas.units import NS_PER_MS, NS_PER_S, decimals, to_int

MS = 1_721_347_200_123
NS = MS * NS_PER_MS
STEPS = Steps(price_scale=2, tick_size=5, size_scale=3, lot_size=1)

DEPTH = {"e": "depthUpdate", "E": MS + 5, "T": MS, "s": "ETHUSDT", "U": 7, "u": 9, "pu": 6,
         "b": [["10.05", "0"]], "a": [["10.10", "1.500"]]}  # fmt: skip
SPOT_DEPTH = {"e": "depthUpdate", "E": MS, "s": "ETHUSDT", "U": 7, "u": 9, "b": [], "a": [["10.10", "1.500"]]}
TRADE = {"e": "trade", "E": MS + 5, "T": MS, "s": "ETHUSDT", "t": 42, "p": "10.10", "q": "2", "X": "MARKET", "m": True}
SPOT_TRADE = {"e": "trade", "E": MS, "s": "ETHUSDT", "t": 42, "p": "10.10", "q": "2", "T": MS, "m": False, "M": True}
BOOK = {"e": "bookTicker", "u": 9, "s": "ETHUSDT", "b": "10.05", "B": "1", "a": "10.10", "A": "2", "T": MS, "E": MS + 5}
SPOT_BOOK = {"u": 9, "s": "ETHUSDT", "b": "10.05", "B": "1", "a": "10.10", "A": "2"}
MARK = {"e": "markPriceUpdate", "E": MS, "s": "ETHUSDT", "p": "10.07123456", "P": "10", "i": "10.06",
        "r": "-0.00002754", "T": MS + 1000}  # fmt: skip
BAR = {"t": MS, "T": MS + 59_999, "s": "ETHUSDT", "i": "1m", "o": "10.05", "c": "10.10", "h": "10.10", "l": "10.05",
       "v": "3.5", "x": False}  # fmt: skip
KLINE = {"e": "kline", "E": MS, "s": "ETHUSDT", "k": BAR}
REST = {"lastUpdateId": 9, "E": MS + 5, "T": MS, "bids": [["10.05", "1"]], "asks": [["10.10", "2"]]}


def events(frame: Any, *, format_name: str = "binance-usdm", url: str = "", wrap: bool = True) -> list[Event]:
    market = format_named(format_name)
    content = {"stream": "x", "data": frame} if wrap else frame
    drafts = market.drafts(orjson.loads(orjson.dumps(content)), url)
    reader = Reader(market.key("ETHUSDT"), market.instrument("ETHUSDT", STEPS, 8))
    return [reader.event(draft, NS + 1) for draft in drafts]


def reason(frame: Any, **options: Any) -> str:
    with pytest.raises(RecordRefused) as refused:
        events(frame, **options)
    return refused.value.reason


def test_depth_of_futures_and_spot() -> None:
    [event] = events(DEPTH)
    assert (event.key, event.ts_event, event.ts_recv, event.kind) == ("BINANCE_USDM:ETHUSDT", NS, NS + 1, Kind.DELTA)
    assert event.body == {
        "sequence_first": 7, "sequence_last": 9, "sequence_previous": 6,
        "bids": [{"price": 201, "size": 0}], "asks": [{"price": 202, "size": 1500}],
    }  # fmt: skip
    [event] = events(SPOT_DEPTH, format_name="binance-spot")
    assert (event.ts_event, event.body["sequence_previous"]) == (NS, None)


def test_trades_name_the_aggressor_and_what_is_no_market_trade() -> None:
    [event] = events(TRADE)
    assert event.body == {
        "price": 202, "size": 2000, "side": "SELL", "trade_id": "42",
        "is_block": False, "is_liquidation": False, "is_insurance": False,
    }  # fmt: skip
    assert events(TRADE | {"m": False})[0].body["side"] == "BUY"
    assert [events(TRADE | {"X": x})[0].body["is_insurance"] for x in ("INSURANCE_FUND", "ADL")] == [True, True]
    assert events(SPOT_TRADE, format_name="binance-spot")[0].body["side"] == "BUY"
    aggregated = {name: value for name, value in TRADE.items() if name not in ("t", "X")} | {"e": "aggTrade", "a": 77}
    assert events(aggregated)[0].body["trade_id"] == "77"


def test_best_prices_carry_the_update_id() -> None:
    [event] = events(BOOK)
    assert (event.kind, event.ts_event) == (Kind.TICKER, NS)
    assert event.body == {
        "sequence": 9, "bid_price": 201, "bid_size": 1000, "ask_price": 202, "ask_size": 2000,
        "mark_price": None, "index_price": None, "open_interest": None,
    }  # fmt: skip
    [event] = events(SPOT_BOOK, format_name="binance-spot")
    assert (event.ts_event, event.body["sequence"]) == (0, 9)


def test_a_mark_price_frame_is_two_records_and_its_t_is_the_funding_time() -> None:
    ticker, funding = events(MARK)
    assert (ticker.ts_event, ticker.body["mark_price"], ticker.body["index_price"]) == (
        NS,
        1_007_123_456,
        1_006_000_000,
    )
    assert (funding.kind, funding.ts_event) == (Kind.FUNDING, NS)
    assert funding.body == {"rate": -27_540_000, "next_funding_ts": NS + NS_PER_S}
    delivery = MARK | {"r": "", "T": 0}
    assert [event.kind for event in events(delivery)] == [Kind.TICKER]
    no_index = {name: value for name, value in MARK.items() if name != "i"}
    assert events(no_index)[0].body["index_price"] is None


def test_bars_and_snapshots() -> None:
    [event] = events(KLINE)
    assert event.body == {
        "interval_s": 60, "open": 201, "high": 202, "low": 201, "close": 202, "volume": 3500, "is_closed": False,
        "start_ts": NS,
    }  # fmt: skip
    [event] = events(REST, wrap=False)
    assert (event.kind, event.ts_event, event.body["sequence_last"]) == (Kind.SNAPSHOT, NS, 9)
    market = format_named("binance-usdm")
    assert market.drafts(REST, "https://x/depth?limit=5&symbol=AUSDT")[0].symbol == "AUSDT"
    assert market.drafts(REST | {"symbol": "BUSDT"}, "")[0].symbol == "BUSDT"
    assert market.drafts(REST, "")[0].symbol == ""


@pytest.mark.parametrize("clock", [MS, MS * 1_000])
def test_spot_clocks_are_ms_or_us(clock: int) -> None:
    [event] = events(SPOT_TRADE | {"T": clock}, format_name="binance-spot")
    assert event.ts_event == NS


def test_what_only_controls_the_connection_is_no_record() -> None:
    market = format_named("binance-usdm")
    assert market.drafts({"result": None, "id": 1}, "") == []
    filters = [{"filterType": "PRICE_FILTER", "tickSize": "0.0500"}, {"filterType": "LOT_SIZE", "stepSize": "10"}]
    info = {"exchangeFilters": [], "symbols": [{"symbol": "A", "filters": filters}, {"symbol": "B", "filters": []}, 7]}
    assert market.drafts(info, "") == []
    assert market.steps(info) == {"A": Steps(2, 5, 0, 10)}
    assert market.steps(REST) == {}


BAD_FRAMES = {
    "price off its tick": (TRADE | {"p": "10.11"}, "off-step"),
    "price finer than its tick": (TRADE | {"p": "10.101"}, "finer-than-scale"),
    "size off its lot": (DEPTH | {"a": [["10.10", "0.0001"]]}, "finer-than-scale"),
    "price zero": (TRADE | {"p": "0.00"}, "price-not-positive"),
    "level at price zero": (DEPTH | {"b": [["0", "1"]]}, "price-not-positive"),
    "size zero": (TRADE | {"q": "0"}, "size-not-positive"),
    "size negative": (DEPTH | {"b": [["10.05", "-1"]]}, "negative-number"),
    "minus zero": (DEPTH | {"b": [["10.05", "-0.0"]]}, "negative-number"),
    "size over 2^63": (TRADE | {"q": "9223372036854775808"}, "number-too-large"),
    "size over the limit": (DEPTH | {"b": [["10.05", "1200000000.0"]]}, "size-too-large"),
    "NaN": (TRADE | {"p": "NaN"}, "not-a-number"),
    "infinity": (TRADE | {"p": "Infinity"}, "not-a-number"),
    "exponent": (TRADE | {"p": "1e3"}, "not-a-number"),
    "other digits": (TRADE | {"p": "\u0661"}, "not-a-number"),
    "number for text": (TRADE | {"p": 10.1}, "number-not-text"),
    "list for text": (TRADE | {"p": []}, "number-not-text"),
    "no price": (TRADE | {"p": None}, "field-missing"),
    "no sequence": ({**DEPTH, "u": None}, "field-missing"),
    "sequence as text": (DEPTH | {"U": "7"}, "field-missing"),
    "sequence backwards": (DEPTH | {"U": 10}, "sequence-backwards"),
    "levels no list": (DEPTH | {"b": {}}, "field-missing"),
    "level of one number": (DEPTH | {"b": [["1"]]}, "level-malformed"),
    "level of numbers": (DEPTH | {"b": [[1, 2]]}, "level-malformed"),
    "level doubled in a snapshot": (REST | {"bids": [["10.05", "1"], ["10.050", "2"]]}, "level-doubled"),
    "trade type NA": (TRADE | {"X": "NA"}, "trade-type-unknown"),
    "clock in seconds": (TRADE | {"T": MS // 1_000}, "implausible-time"),
    "clock in us on futures": (TRADE | {"T": MS * 1_000}, "implausible-time"),
    "a month": (KLINE | {"k": BAR | {"i": "1M"}}, "interval-unknown"),
    "huge interval": (KLINE | {"k": BAR | {"i": "9" * 5000 + "m"}}, "interval-unknown"),
    "bar upside down": (KLINE | {"k": BAR | {"h": "10.00"}}, "bar-inconsistent"),
    "forced order": ({"e": "forceOrder", "E": MS, "o": {}}, "unsupported-stream"),
    "no event name": ({"x": 1}, "unsupported-stream"),
    "hostile symbol": (TRADE | {"s": "ETH\nUSDT"}, "other-format"),
    "long symbol": (TRADE | {"s": "A" * 1000}, "other-format"),
    "spot depth": (SPOT_DEPTH, "other-format"),
    "spot best prices": (SPOT_BOOK, "other-format"),
    "spot trade": (SPOT_TRADE, "other-format"),
    "COIN-M depth": (DEPTH | {"ps": "ETHUSD"}, "other-format"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_FRAMES)
def test_a_bad_frame_is_refused_with_its_reason(name: str) -> None:
    frame, expected = BAD_FRAMES[name]
    assert reason(frame, wrap="lastUpdateId" not in frame) == expected


@pytest.mark.parametrize("frame", [[], 5, None, "text", {"channel": "l2Book", "data": {"coin": "BTC"}}, {"data": 5}])
def test_what_is_no_frame_of_binance_is_foreign(frame: Any) -> None:
    assert reason(frame, wrap=False) == "foreign-frame"


def test_futures_frames_are_of_another_format_on_spot() -> None:
    for frame in (DEPTH, BOOK, TRADE):
        assert reason(frame, format_name="binance-spot") == "other-format"
    assert reason(REST, format_name="binance-spot", wrap=False) == "other-format"
    assert reason(TRADE, format_name="binance-coinm") == "other-format"


@given(st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*DEPTH, *MARK, *TRADE, "k"]), inner),
    max_leaves=12,
), st.sampled_from([DEPTH, SPOT_BOOK, TRADE, MARK, KLINE, REST]), st.sampled_from(sorted(FORMATS)))  # fmt: skip
def test_any_json_is_read_or_refused(found: Any, sound: dict[str, Any], format_name: str) -> None:
    for frame in (found, sound | found if isinstance(found, dict) else {**sound, "b": found}):
        for wrap in (True, False):
            try:
                read = events(frame, format_name=format_name, wrap=wrap)
            except RecordRefused:
                continue
            assert all(isinstance(event, Event) for event in read)


def test_instruments_know_their_contract() -> None:
    usdm, coinm, spot = (format_named(name) for name in ("binance-usdm", "binance-coinm", "binance-spot"))

    def about(market: Any, symbol: str) -> tuple[str, bool, int]:
        body = market.instrument(symbol, STEPS, 8)
        return body["contract"], body["is_perpetual"], body["contract_value"]

    assert about(usdm, "ETHUSDT") == ("LINEAR", True, 1)
    assert about(usdm, "ETHUSDT_240927") == ("LINEAR", False, 1)
    assert about(coinm, "ETHUSD_PERP") == ("INVERSE", True, 10)
    assert about(coinm, "BTCUSD_PERP") == ("INVERSE", True, 100)
    assert about(coinm, "BTCUSD_240927") == ("INVERSE", False, 100)
    assert about(spot, "BTCUSDT") == ("SPOT", False, 1)


def measured(*prices: str) -> Needs:
    needs = Needs()
    for price in prices:
        needs.price.see(price)
    return needs


def test_scales_are_the_finest_that_the_texts_need() -> None:
    assert measured("61837.63000000", "5", "0.1000").steps().price_scale == 2
    assert measured().steps() == Steps(0, 1, 0, 1)
    assert measured("NaN", "-", "1e9").steps().price_scale == 0
    # A price that is absurdly fine must not make all others too large to count.
    assert measured("61837.63", "1.0000000000000001").steps().price_scale == 7


def test_a_snapshot_off_the_stated_tick_refines_it() -> None:
    stated = steps_of("0.050", "10")
    assert measured("10.05", "1.10").refined(stated) == stated
    assert measured("10.05", "1.11").refined(stated) == Steps(2, 1, 0, 10)
    assert measured("10.05", "1.0125").refined(stated) == Steps(4, 1, 0, 10)


@given(st.lists(st.decimals(0, 10**5, places=6).map(str), min_size=1))
def test_measured_texts_always_fit(texts: list[str]) -> None:
    scale = measured(*texts).steps().price_scale
    assert scale == max(map(decimals, texts))
    assert all(to_int(text, scale) >= 0 for text in texts)
