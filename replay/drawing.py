"""Drawing: figures as SVG that stands inside a page, in its colours, the same bytes for the same figure.

Output: one `<svg>` element. It has no size of its own, no script, no link, and what is ink takes the page's colour.
Units: inches, at 72 points each.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from io import StringIO
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib import dates
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from schemas.columns import Int64

INK: Final = "#010203"
"""Becomes `currentColor`: dark on a light page, light on a dark one."""
PAPER_INK: Final = "#1c2127"
"""For figures that bring their own white paper."""
COLOURS: Final = ("#2c85c7", "#e69f00", "#1aa37a", "#b05cc6", "#cc4c4c", "#7f7f7f")
"""Told apart by people who see colours differently (after Okabe and Ito), readable on light and dark."""
PURGED, EMBARGOED = "#8a8f98", "#cc4c4c"
_STYLE: Final[dict[str, Any]] = {
    "svg.fonttype": "none", "svg.hashsalt": "onetape", "text.parse_math": False, "font.family": "sans-serif",
    "font.size": 9, "axes.titlesize": 9, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6, "legend.frameon": False,
    "legend.fontsize": 8, "xtick.labelsize": 8, "ytick.labelsize": 8, "lines.linewidth": 1.3,
    "image.composite_image": False,
}  # fmt: skip


_INKED: Final = (
    "text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color",
)  # fmt: skip


@contextmanager
def style(ink: str = INK) -> Iterator[None]:
    """The look of every figure, whatever the user's own matplotlibrc says; saving one belongs inside, too."""
    with warnings.catch_warnings(), mpl.rc_context({}):
        # Text stays text in the SVG: a glyph that the font at hand lacks is the reader's browser's to find.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        mpl.rcdefaults()
        parameters: dict[Any, Any] = mpl.rcParams
        parameters.update({**_STYLE, **dict.fromkeys(_INKED, ink)})
        yield


def figure(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure with one pair of axes, laid out so that nothing is cut off."""
    drawn = Figure(figsize=(width, height), layout="constrained")
    return drawn, drawn.add_subplot()


def svg(drawn: Figure, title: str) -> str:
    """A figure as an element of a page, as wide as it finds room for; `title` is for those who do not see it."""
    out = StringIO()
    drawn.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    text = text.replace(INK, "currentColor")
    wide, high = float(drawn.get_figwidth()) * 72, float(drawn.get_figheight()) * 72
    head = f'<svg role="img" aria-label="{escape(title)}" viewBox="0 0 {wide:g} {high:g}">'
    return head + re.sub(r"^<svg[^>]*>", "", text).strip()


def lay_dates(axes: Axes, times: Int64) -> NDArray[np.float64]:
    """Put a time axis under a figure; gives the places of times [n] (ns UTC) on it."""
    axes.xaxis_date("UTC")
    locator = dates.AutoDateLocator(tz="UTC", minticks=3, maxticks=8)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator, tz="UTC"))  # type: ignore[no-untyped-call]
    days: NDArray[np.float64] = times / 86_400e9
    return days


def percent(axis: Any) -> None:
    """Show an axis of shares as per cent."""
    axis.set_major_formatter(PercentFormatter(1.0))
