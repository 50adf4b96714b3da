"""The diagnosis as one HTML page that stands by itself: no script, nothing from elsewhere.

Names of runs, ops, files and hosts come from recordings of strangers. Every text goes through
`html.escape`, numbers through a format of their own, and the page's own policy forbids a browser
to run or to load anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape

from ..diagnosis import SLOTS, Diagnosis, Finding
from ..printable import printable_struct
from ..text import percent
from .colours import bound_colour, slot_colours, text_on
from .facts import run_facts
from .places import describe_place

SMALLEST_SHOWN = 0.005
"""Slots below half a percent show as "0 %" and have no bar that could be seen."""

LABELLED = 0.08
"""A part of the bar that is wide enough for its name, at 390 pixels too."""

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

_STYLE = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1b1b1f;--soft:#5c5c66;--line:#d9d9e0;--box:#f5f5f8}
body{margin:0 auto;max-width:60rem;padding:1.5rem 1rem 3rem;background:var(--bg);color:var(--fg);
 font:16px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.5rem;line-height:1.3;margin:.4rem 0}
h2{font-size:1.15rem;margin:2rem 0 .6rem}
h3{font-size:1.02rem;margin:0 0 .2rem}
p{margin:.3rem 0}
.soft{color:var(--soft);font-size:.9rem}
.chip{display:inline-block;border-radius:.35rem;padding:.05rem .55rem;font-weight:650;
 font-size:.85rem;background:var(--c);color:var(--t)}
.bar{display:flex;height:2.6rem;border-radius:.35rem;overflow:hidden;margin:1rem 0 .6rem}
.bar div{min-width:2px;overflow:hidden;white-space:nowrap;text-align:center;font-size:.85rem;
 line-height:2.6rem;background:var(--c);color:var(--t)}
.legend{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;font-size:.9rem;padding:0;margin:0;
 list-style:none}
.legend i{display:inline-block;width:.75rem;height:.75rem;border-radius:.15rem;margin-right:.4rem;
 background:var(--c)}
.card{border-left:5px solid var(--c);background:var(--box);border-radius:.4rem;
 padding:.8rem 1rem;margin:.8rem 0}
.place,pre,code{font-family:ui-monospace,monospace;font-size:.85rem}
pre{background:var(--bg);border:1px solid var(--line);border-radius:.3rem;padding:.5rem .7rem;
 overflow-x:auto;margin:.3rem 0}
ul{padding-left:1.2rem;margin:.3rem 0}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:.9rem}
td,th{padding:.25rem .8rem .25rem 0;text-align:right;border-bottom:1px solid var(--line)}
td:first-child,th:first-child{text-align:left}
"""

_DARK = """
@media (prefers-color-scheme:dark){:root{--bg:#15151a;--fg:#ececf1;--soft:#a4a4b0;--line:#3a3a44;
 --box:#1f1f26}
"""


def to_html(diagnosis: Diagnosis) -> str:
    """Return the page: the verdict, its slots, findings with fixes, ranks, what was missing."""
    diagnosis = printable_struct(diagnosis)
    name = diagnosis.run.name or diagnosis.run.id
    bound = diagnosis.verdict.bound
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        f"<title>{escape(f'{name}: {_words(bound)}')}</title>",
        f"<style>{_STYLE}{_colours(dark=False)}{_DARK}{_colours(dark=True)}}}</style>",
        "</head><body><header>",
        f'<span class="chip c-{_class(bound)}">{escape(_words(bound))}</span>',
        f"<h1>{escape(diagnosis.verdict.headline)}</h1>",
        f'<p class="soft">{escape(" · ".join(_facts(diagnosis)))}</p></header>',
        _bar(diagnosis.breakdown),
        *_findings(diagnosis.findings),
        *_ranks(diagnosis),
        *_gaps(diagnosis),
        '<p class="soft">Made by boundscope diagnose.</p></body></html>',
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _words(bound: str) -> str:
    return bound if bound in ("balanced", "unknown") else f"{bound}-bound"


def _class(slot: str) -> str:
    """The style class of a slot or bound; a name that is none of ours gets that of `unknown`."""
    return slot if slot in (*SLOTS, "balanced") else "unknown"


def _colours(*, dark: bool) -> str:
    """Rules that give every slot and bound its colour, and the text on it a readable one."""
    names = [*slot_colours(dark=dark), "balanced", "unknown"]
    colours = {name: bound_colour(name, dark=dark) for name in names}
    return "".join(
        f".c-{name}{{--c:{colour};--t:{text_on(colour)}}}\n" for name, colour in colours.items()
    )


def _facts(diagnosis: Diagnosis) -> list[str]:
    run = diagnosis.run
    return [run.name or run.id, *run_facts(diagnosis), *run.devices]


def _bar(breakdown: Mapping[str, float]) -> str:
    shown = sorted(
        ((slot, share) for slot, share in breakdown.items() if share >= SMALLEST_SHOWN),
        key=lambda item: -item[1],
    )
    if not shown:
        return ""
    bars = "".join(
        f'<div class="c-{_class(slot)}" style="flex:{share:.4f} 0 0">'
        f"{escape(slot) if share >= LABELLED else ''}</div>"
        for slot, share in shown
    )
    legend = "".join(
        f'<li><i class="c-{_class(slot)}"></i>{escape(slot)} {percent(share)}</li>'
        for slot, share in shown
    )
    return f'<div class="bar" aria-hidden="true">{bars}</div><ul class="legend">{legend}</ul>'


def _findings(findings: Iterable[Finding]) -> list[str]:
    cards = [_finding(number, finding) for number, finding in enumerate(findings, start=1)]
    return ["<h2>What holds it up, and what to do</h2>", *cards] if cards else []


def _finding(number: int, finding: Finding) -> str:
    saving = finding.saving
    lines = [f"<h3>{number}. {escape(finding.title or finding.id)}</h3>"]
    if saving.high > 0:
        text = (
            f"saves about {percent(saving.mid)} of step time ({percent(saving.low)} to "
            f"{percent(saving.high)}), {finding.speedup:g} times as fast"
        )
        lines.append(f'<p class="soft">{escape(text)}</p>')
    lines += [f'<p class="place">{escape(describe_place(where))}</p>' for where in finding.where]
    lines.append(_list(evidence.text for evidence in finding.evidence))
    for fix in finding.fixes:
        lines.append(f"<p><b>{escape(fix.title)}</b></p>")
        lines += [f"<p>{escape(fix.detail)}</p>"] if fix.detail else []
        lines += [f"<pre>{escape(fix.snippet)}</pre>"] if fix.snippet else []
    body = "".join(lines)
    return f'<section class="card c-{_class(finding.bound)}">{body}</section>'


def _ranks(diagnosis: Diagnosis) -> list[str]:
    """A table of the ranks' slots, those that any of them has."""
    if len(diagnosis.ranks) < 2:
        return []
    slots = [
        slot
        for slot in SLOTS
        if any(rank.breakdown.get(slot, 0.0) >= SMALLEST_SHOWN for rank in diagnosis.ranks)
    ]
    head = "".join(f"<th>{slot}</th>" for slot in slots)
    rows = "".join(
        f"<tr><td>{rank.rank:d}</td>"
        + "".join(f"<td>{percent(rank.breakdown.get(slot, 0.0))}</td>" for slot in slots)
        + "</tr>"
        for rank in diagnosis.ranks
    )
    table = f"<table><thead><tr><th>rank</th>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return ["<h2>Ranks</h2>", f'<div class="wide">{table}</div>']


def _gaps(diagnosis: Diagnosis) -> list[str]:
    missing = [f"{one.collector} ({one.reason}): {one.effect}" for one in diagnosis.missing]
    warnings = [f"{one.slug}: {one.text}" for one in diagnosis.warnings]
    parts = []
    if warnings:
        parts += ["<h2>Warnings</h2>", _list(warnings)]
    if missing:
        parts += ["<h2>What was not recorded</h2>", _list(missing)]
    return parts


def _list(texts: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f"<ul>{items}</ul>" if items else ""
