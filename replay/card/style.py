"""The look of a card: one style sheet for light, dark and paper, wide and narrow."""

from __future__ import annotations

from typing import Final

STYLE: Final = """
:root { color-scheme: light dark; --ink: #1c2127; --soft: #5b6570; --page: #ffffff; --card: #f5f7f9; --line: #dbe0e5;
  --good: #137a54; --bad: #b3261e; --none: #7a6000; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ec; --soft: #9aa5b1; --page: #14181c; --card: #1d2329;
  --line: #333b44; --good: #4cc796; --bad: #ff8a80; --none: #e2c04a; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; padding: 2rem 1.25rem 3rem; max-width: 76rem; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { margin: 0; font-size: 1.5rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 { margin: 2.25rem 0 .75rem; padding-bottom: .25rem; font-size: 1.1rem; border-bottom: 1px solid var(--line); }
p { margin: .4rem 0; max-width: 62rem; }
.soft, caption, figcaption { color: var(--soft); }
code, .mono { font: .9em/1.4 ui-monospace, "SF Mono", "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(11.5rem, 1fr)); gap: .75rem; margin: 1.25rem 0; }
.tile { padding: .7rem .9rem; background: var(--card); border: 1px solid var(--line); border-radius: 6px;
  overflow-wrap: anywhere; }
.tile b { display: block; font-size: 1.2rem; font-variant-numeric: tabular-nums; }
.tile .soft { display: block; font-size: .85rem; }
.good b { color: var(--good); } .bad b { color: var(--bad); } .none b { color: var(--none); }
.notice { padding: .6rem .9rem; border: 1px solid var(--none); border-left-width: 5px; border-radius: 4px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 600; vertical-align: bottom; white-space: normal; }
th:first-child, td:first-child, .text { text-align: left; }
td code { overflow-wrap: normal; }
.prose { min-width: 18rem; white-space: normal; text-align: left; }
table.facts th { width: 13rem; text-align: left; vertical-align: top; white-space: normal; }
table.facts td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(24rem, 100%), 1fr)); gap: 1rem 1.5rem; }
figure { margin: .5rem 0; }
figure svg, .wide > svg { display: block; width: 100%; height: auto; }
.wide > svg { min-width: 40rem; }
svg image { image-rendering: pixelated; }
svg.spark { display: block; width: 130px; height: 28px; }
.ends { display: flex; justify-content: space-between; width: 130px; font-size: .72rem; line-height: 1.5;
  color: var(--soft); }
.keys { white-space: nowrap; }
.key { display: inline-block; width: .75em; height: .75em; margin: 0 .3em 0 .9em; border-radius: 2px; }
.bar { display: inline-block; width: 5rem; height: .6rem; margin-left: .5rem; background: var(--line);
  border-radius: 2px; }
.bar i { display: block; height: 100%; background: #cc4c4c; border-radius: 2px; }
@media (max-width: 40rem) { body { padding: 1rem .75rem 2rem; } table.facts th { width: 7.5rem; } }
@media print {
  :root { --ink: #000; --soft: #444; --page: #fff; --card: #fff; --line: #ccc; --good: #137a54; --bad: #b3261e;
    --none: #7a6000; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  table { font-size: 7.5pt; } th, td { padding: .15rem .4rem; }
  .wide { overflow: visible; } .wide > svg { min-width: 0; }
  tr, figure, .tile { break-inside: avoid; } h2 { break-after: avoid; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
