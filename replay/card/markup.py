"""Markup: the few pieces of HTML a card is made of. Every text from outside is escaped here.

Output: fragments of HTML.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

NOTHING = "\N{EN DASH}"


class Html(str):
    """A fragment that is HTML already."""

    __slots__ = ()


def text(value: Any) -> Html:
    """A value as people read it, escaped: thousands separated, a dash for nothing."""
    if isinstance(value, Html):
        return value
    if value is None:
        return Html(NOTHING)
    if isinstance(value, bool):
        return Html("yes" if value else "no")
    if isinstance(value, int):
        return Html(f"{value:,}")
    return Html(number(value) if isinstance(value, float) else escape(str(value)))


def number(value: float, digits: int = 4) -> str:
    """Some digits of a number, a dash for none."""
    if not np.isfinite(value):
        return NOTHING
    if 10.0**digits <= abs(value) < 1e9:
        return f"{value:,.0f}"
    shown, exponent, power = f"{value:.{digits}g}".partition("e")
    return f"{shown}{exponent}{int(power)}" if exponent else shown


def share(value: float) -> str:
    """A share in per cent; what is above 0 never reads as 0."""
    return "0 %" if value == 0 else f"{value:.2%}".replace("%", " %") if value >= 0.0001 else "< 0.01 %"


def time(ns: int) -> str:
    """A time in ns as ISO 8601 with milliseconds."""
    return f"{np.datetime_as_string(np.datetime64(ns, 'ns'), unit='ms')}Z"


def code(value: Any) -> Html:
    """A name or hash."""
    return Html(f"<code>{escape(str(value))}</code>")


def section(title: str, *parts: str) -> Html:
    """A heading and what is under it; nothing where nothing is."""
    return Html(f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>" if any(parts) else "")


def paragraph(content: str) -> Html:
    """A sentence or two, escaped unless it is HTML."""
    return Html(f'<p class="soft">{text(content)}</p>')


def tile(title: str, value: str, about: str, mood: str = "") -> Html:
    """One figure that says most; `mood` is good, bad, none or nothing."""
    return Html(
        f'<div class="tile {mood}"><span class="soft">{escape(title)}</span><b>{escape(value)}</b>'
        f'<span class="soft">{escape(about)}</span></div>'
    )


def facts(rows: Mapping[str, Any]) -> Html:
    """Names and values."""
    lines = "".join(f"<tr><th>{escape(name)}</th><td>{text(value)}</td></tr>" for name, value in rows.items())
    return Html(f'<table class="facts">{lines}</table>')


def table(columns: Sequence[Any], rows: Iterable[Sequence[Any]], looks: Mapping[int, str] | None = None) -> Html:
    """A table; columns hold names ("text"), sentences ("prose") or numbers. A wide one scrolls by itself."""
    kinds = [(looks or {}).get(place, "" if place else "text") for place in range(len(columns))]
    head = "".join(f'<th class="{kind}">{text(name)}</th>' for name, kind in zip(columns, kinds, strict=True))
    body = "".join(
        "<tr>"
        + "".join(f'<td class="{kind}">{text(value)}</td>' for value, kind in zip(row, kinds, strict=True))
        + "</tr>"
        for row in rows
    )
    return Html(f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>')


def bar(value: float) -> Html:
    """A share in per cent with a bar beside it."""
    width = min(max(value, 0.0), 1.0) * 100
    return Html(f'{share(value)}<span class="bar"><i style="width:{width:.1f}%"></i></span>')


def key(names: Sequence[str], colours: Sequence[str]) -> Html:
    """Names with their colours."""
    keys = (
        f'<span class="keys"><span class="key" style="background:{colour}"></span>{escape(name)}</span>'
        for name, colour in zip(names, colours, strict=True)
    )
    return Html(" ".join(keys))


def side_by_side(parts: Sequence[str]) -> Html:
    """Figures or tables beside each other where there is room."""
    inner = "".join(f"<figure>{each}</figure>" for each in parts)
    return Html(f'<div class="plots">{inner}</div>' if inner else "")


def wide(drawn: str | None) -> Html:
    """One figure over the whole width; on a narrow screen it scrolls by itself."""
    return Html(f'<div class="wide">{drawn}</div>' if drawn else "")
