"""HTML of the dashboard: constant markup around escaped text. No Streamlit.

Names of hosts, ops and files come from runs that others recorded. Everything here goes through
`html.escape`; nothing else in the dashboard makes HTML.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from ..profiler.report.colours import bound_colour, slot_colours, text_on
from ..profiler.tables.lanes import KINDS
from ..profiler.text import percent
from .charts.lanes import PLAIN

STYLE = """<style>
.st-key-load-charts{display:none}
.bs{font-size:.95rem;line-height:1.5;overflow-wrap:anywhere}
.bs-title{font-size:1.65rem;font-weight:650;line-height:1.25;margin:.1rem 0 .1rem}
.bs-sub{opacity:.72;font-size:.9rem;overflow-wrap:anywhere}
.bs-card{border-left:6px solid var(--c);background:color-mix(in srgb,var(--c) 9%,transparent);
 border-radius:.5rem;padding:1rem 1.2rem}
.bs-headline{font-size:1.45rem;font-weight:620;line-height:1.3;margin:.45rem 0 .6rem}
.bs-chip{display:inline-block;background:var(--c);color:var(--t);border-radius:.35rem;
 padding:.06rem .55rem;font-weight:650;font-size:.82rem;letter-spacing:.01em;white-space:nowrap}
.bs-facts{display:flex;flex-wrap:wrap;gap:.35rem 1.6rem;margin-top:.2rem}
.bs-fact b{display:block;font-weight:620;font-size:1.02rem}
.bs-fact span{opacity:.68;font-size:.8rem}
.bs-legend{display:flex;flex-wrap:wrap;gap:.25rem 1.1rem;margin:.1rem 0 .4rem;font-size:.9rem}
.bs-legend i{display:inline-block;width:.75rem;height:.75rem;border-radius:.18rem;
 background:var(--c);margin-right:.4rem;vertical-align:-.06rem}
.bs-saving{display:flex;align-items:center;gap:.8rem;flex-wrap:wrap;margin:.35rem 0 .5rem}
.bs-meter{position:relative;flex:1 1 9rem;max-width:22rem;height:.7rem;border-radius:.35rem;
 background:color-mix(in srgb,currentColor 13%,transparent);overflow:hidden}
.bs-meter .range{position:absolute;top:0;bottom:0;
 background:color-mix(in srgb,var(--c) 45%,transparent)}
.bs-meter .mid{position:absolute;top:0;bottom:0;left:0;background:var(--c)}
.bs-slots{display:flex;height:3.2rem;margin:.1rem 0 .7rem;border-radius:.3rem;overflow:hidden;
 white-space:nowrap;font-size:.85rem;text-align:center;line-height:3.2rem}
.bs-slots div{overflow:hidden;min-width:2px;container-type:inline-size}
@container (max-width:7.2rem){.bs-slots div>span>span{display:none}}
@container (max-width:2.9rem){.bs-slots div>span{display:none}}
.bs-small img{width:100%;max-width:30rem;display:block;margin-top:.3rem}
.bs-table{border-collapse:collapse;width:100%;font-size:.88rem}
.bs-table th{text-align:left;font-weight:600;opacity:.7}
.bs-table td,.bs-table th{padding:.35rem .6rem .35rem 0;vertical-align:top;
 border-bottom:1px solid color-mix(in srgb,currentColor 16%,transparent)}
.bs-table td:first-child{min-width:5rem;overflow-wrap:normal}
.bs-scroll{overflow-x:auto}
.bs-numbers td,.bs-numbers th{white-space:nowrap}
.bs-numbers td{font-variant-numeric:tabular-nums;padding:.2rem 1.2rem .2rem 0}
.bs-pick{background:none;border:0;padding:0;color:inherit;font:inherit;cursor:pointer;
 text-decoration:underline;text-underline-offset:.2em}
.bs-thin{height:.32rem;max-width:16rem;margin:.25rem 0 .35rem}
.bs-list{margin:.1rem 0 .3rem;padding-left:1.15rem}
.bs-list li{margin:.16rem 0}
.bs-tag{opacity:.62;font-size:.78rem;
 border:1px solid color-mix(in srgb,currentColor 30%,transparent);
 border-radius:.3rem;padding:0 .35rem;margin-left:.4rem;white-space:nowrap}
.bs-place{font-family:"Source Code Pro",ui-monospace,monospace;font-size:.86rem;
 overflow-wrap:anywhere}
.bs-h{font-weight:620;margin:.5rem 0 .1rem}
.bs-note{border-left:4px solid var(--c);background:color-mix(in srgb,var(--c) 10%,transparent);
 border-radius:.4rem;padding:.6rem .9rem;margin:.15rem 0}
.bs-note code,.bs code{font-size:.85em;background:color-mix(in srgb,currentColor 10%,transparent);
 padding:.05em .35em;border-radius:.25em}
.bs-words{flex:1 1 15rem}
[data-testid=stMainBlockContainer]{padding-top:3.2rem;padding-bottom:3rem}
.bs-run{display:flex;flex-wrap:wrap;gap:.2rem 1.3rem;align-items:baseline}
.bs-empty{text-align:center;padding:2.2rem 1rem;opacity:.85}
.bs-src{font-family:"Source Code Pro",ui-monospace,monospace;font-size:.82rem;white-space:pre;
 overflow-x:auto;border-radius:.4rem;padding:.5rem .7rem;
 background:color-mix(in srgb,currentColor 7%,transparent)}
.bs-code{position:relative;margin:.35rem 0 .5rem}
.bs-code pre{font-family:"Source Code Pro",ui-monospace,monospace;font-size:.82rem;margin:0;
 white-space:pre-wrap;overflow-wrap:anywhere;border-radius:.4rem;padding:.6rem 4.6rem .6rem .8rem;
 background:color-mix(in srgb,currentColor 7%,transparent);color:inherit}
.bs-copy{position:absolute;top:.35rem;right:.4rem;font:inherit;font-size:.76rem;cursor:pointer;
 color:inherit;background:color-mix(in srgb,currentColor 10%,transparent);border-radius:.3rem;
 border:1px solid color-mix(in srgb,currentColor 28%,transparent);padding:.05rem .5rem}
.bs-copy:hover{background:color-mix(in srgb,currentColor 20%,transparent)}
.st-key-copying{display:none}
.bs-src mark{background:color-mix(in srgb,var(--c) 38%,transparent);color:inherit}
</style>"""
"""The style sheet, sent once a page. Colours other than the slots' follow the page's own text."""

COPYING = """<script>
if (!window.bsCopying) {
  window.bsCopying = true;
  document.addEventListener('click', async (event) => {
    const button = event.target.closest('.bs-copy');
    if (!button) return;
    const code = button.parentElement.querySelector('pre');
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = 'Copied';
    } catch {
      getSelection().selectAllChildren(code);
      button.textContent = 'Selected';
    }
    setTimeout(() => { button.textContent = 'Copy'; }, 2000);
  });
}
</script>"""
"""Lets the buttons of `code` copy; where the browser forbids that, they select. It is constant: no
word of a run is ever in a script."""

WARN, ERROR, ACCENT = "#e69f00", "#d55e00", "#2e78b5"


def chip(text: str, colour: str) -> str:
    """Return a coloured label."""
    return f'<span class="bs-chip" style="--c:{colour};--t:{text_on(colour)}">{escape(text)}</span>'


def bound_chip(bound: str, *, dark: bool) -> str:
    """Return the label of a verdict in its slot's colour."""
    words = bound if bound in ("balanced", "unknown") else f"{bound}-bound"
    return chip(words, bound_colour(bound, dark=dark))


def title(text: str, under: str = "") -> str:
    """Return a page's title and the line below it."""
    sub = f'<div class="bs-sub">{escape(under)}</div>' if under else ""
    return (
        f'<div class="bs"><div class="bs-title" role="heading" aria-level="1">{escape(text)}'
        f"</div>{sub}</div>"
    )


def heading(text: str) -> str:
    """Return a small heading inside a card."""
    return f'<div class="bs bs-h" role="heading" aria-level="3">{escape(text)}</div>'


def facts(items: Iterable[tuple[str, str]]) -> str:
    """Return (label, value) pairs side by side."""
    cells = "".join(
        f'<div class="bs-fact"><span>{escape(label)}</span><b>{escape(value)}</b></div>'
        for label, value in items
        if value
    )
    return f'<div class="bs bs-facts">{cells}</div>'


def verdict_card(
    bound: str, headline: str, confidence: str, items: Sequence[tuple[str, str]], *, dark: bool
) -> str:
    """Return the answer: the label, the sentence, and what it stands on."""
    colour = bound_colour(bound, dark=dark)
    sure = f' <span class="bs-sub">{escape(confidence)}</span>' if confidence else ""
    return (
        f'<div class="bs bs-card" style="--c:{colour}">{bound_chip(bound, dark=dark)}{sure}'
        f'<div class="bs-headline" role="heading" aria-level="2" data-testid="headline">'
        f"{escape(headline)}</div>{facts(items)}</div>"
    )


def legend(shares: Mapping[str, float], *, dark: bool) -> str:
    """Return every slot that has half a percent or more, largest first, with its share."""
    colours = slot_colours(dark=dark)
    shown = sorted((item for item in shares.items() if item[1] >= 0.005), key=lambda i: -i[1])
    cells = "".join(
        f'<span data-slot="{escape(slot)}"><i style="--c:{colours.get(slot, "#888888")}"></i>'
        f"{escape(slot)} <b>{percent(share)}</b></span>"
        for slot, share in shown
    )
    return f'<div class="bs bs-legend">{cells}</div>'


def saving_meter(low: float, mid: float, high: float, speedup: float, colour: str) -> str:
    """Return the saving of a finding: a bar to the middle, a band from low to high."""
    words = f"saves {percent(mid)} of step time"
    interval = f"{percent(low)} to {percent(high)} · {speedup:g}× as fast"  # noqa: RUF001
    left, width = low * 100, max(0.0, high - low) * 100
    return (
        f'<div class="bs bs-saving" style="--c:{colour}"><b>{words}</b>'
        f'<div class="bs-meter" role="img" aria-label="{words}, {interval}">'
        f'<div class="range" style="left:{left:.1f}%;width:{width:.1f}%"></div>'
        f'<div class="mid" style="width:{mid * 100:.1f}%"></div></div>'
        f'<span class="bs-sub">{interval}</span></div>'
    )


def bullets(items: Iterable[tuple[str, str]]) -> str:
    """Return (text, tag) pairs as a list; an empty tag is left out."""
    rows = "".join(
        f"<li>{escape(text)}"
        + (f'<span class="bs-tag">{escape(tag)}</span>' if tag else "")
        + "</li>"
        for text, tag in items
    )
    return f'<div class="bs"><ul class="bs-list">{rows}</ul></div>'


def evidence(items: Iterable[tuple[str, str, float | None]], colour: str) -> str:
    """Return (text, source, share) of a finding's evidence; a share is drawn as a bar too."""
    rows = []
    for text, tag, share in items:
        bar = ""
        if share is not None:
            bar = (
                f'<div class="bs-meter bs-thin" role="img" aria-label="{percent(share)}">'
                f'<div class="mid" style="width:{share * 100:.1f}%"></div></div>'
            )
        rows.append(f'<li>{escape(text)}<span class="bs-tag">{escape(tag)}</span>{bar}</li>')
    return f'<div class="bs" style="--c:{colour}"><ul class="bs-list">{"".join(rows)}</ul></div>'


def places(items: Iterable[str]) -> str:
    """Return places in the user's code, one a line."""
    rows = "".join(f'<div class="bs-place">{escape(item)}</div>' for item in items)
    return f'<div class="bs">{rows}</div>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a small table of words, which break where they must: nothing is cut off."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f'<div class="bs"><table class="bs-table"><tr>{top}</tr>{body}</table></div>'


def picks(rows: Sequence[Mapping[str, str]]) -> str:
    """Return a table whose first cells, numbers, are buttons that choose them (static/pick.js)."""
    head = "".join(f"<th>{escape(name)}</th>" for name in rows[0]) if rows else ""
    body = []
    for row in rows:
        first, *rest = (escape(cell) for cell in row.values())
        button = (
            f'<button class="bs-pick" data-pick="{first}" title="Show it below">{first}</button>'
        )
        body.append(f"<tr><td>{button}</td>{''.join(f'<td>{cell}</td>' for cell in rest)}</tr>")
    table = f'<table class="bs-table bs-numbers"><tr>{head}</tr>{"".join(body)}</table>'
    return f'<div class="bs bs-scroll">{table}</div>'


def source(lines: Sequence[tuple[int, str]], marked: int, colour: str) -> str:
    """Return numbered source lines with one of them marked."""
    rows = []
    for number, text in lines:
        row = f"{number:>5}  {escape(text)}"
        rows.append(f"<mark>{row}</mark>" if number == marked else row)
    return f'<div class="bs-src" style="--c:{colour}">' + "\n".join(rows) + "</div>"


def code(text: str) -> str:
    """Return lines to copy, with a button for it. Streamlit's own block for code takes 1.5 MB of
    script, which colours what it shows."""
    return (
        f'<div class="bs-code"><pre><code>{escape(text)}</code></pre>'
        '<button class="bs-copy" type="button">Copy</button></div>'
    )


def note(text: str, hint: str = "", slug: str = "", colour: str = WARN) -> str:
    """Return a warning or an error: a sentence, a hint, and the slug that the docs explain."""
    code = f"<code>{escape(slug)}</code> " if slug else ""
    under = f'<div class="bs-sub">{escape(hint)}</div>' if hint else ""
    return f'<div class="bs bs-note" style="--c:{colour}">{code}{escape(text)}{under}</div>'


def empty(text: str, hint: str = "") -> str:
    """Return what a page shows where there is nothing to show."""
    under = f'<div class="bs-sub">{escape(hint)}</div>' if hint else ""
    return f'<div class="bs bs-empty" data-testid="empty">{escape(text)}{under}</div>'


def paragraph(text: str) -> str:
    """Return a line of small text."""
    return f'<div class="bs bs-sub">{escape(text)}</div>'


def run_title(name: str, key: str) -> str:
    """Return a run's name and where it lies."""
    return (
        f'<div class="bs bs-run"><b style="font-size:1.08rem">{escape(name)}</b>'
        f'<span class="bs-sub">{escape(key)}</span></div>'
    )


def run_verdict(bound: str, headline: str, *, dark: bool) -> str:
    """Return the label of a verdict and its sentence in one line."""
    words = headline.split(": ", 1)[-1]
    words = words[:1].upper() + words[1:]
    return (
        f'<div class="bs bs-run" style="align-items:center;margin:.25rem 0 .35rem">'
        f'{bound_chip(bound, dark=dark)}<span class="bs-words">{escape(words)}</span></div>'
    )


def finding_title(number: int, text: str, bound: str, colour: str) -> str:
    """Return a finding's number, title and slot."""
    return (
        f'<div class="bs bs-run" style="align-items:center" role="heading" aria-level="3">'
        f'<b style="font-size:1.12rem">{number}. {escape(text)}</b>{chip(bound, colour)}</div>'
    )


def fix(text: str, detail: str) -> str:
    """Return what to do, and why that helps."""
    under = f'<div class="bs-sub">{escape(detail)}</div>' if detail else ""
    return f'<div class="bs"><b>{escape(text)}</b>{under}</div>'


BAND_SLOTS = {"evaluation": "evaluation", "checkpoint": "storage"}


def band_legend(bands: Iterable[str], *, dark: bool) -> str:
    """Return what the shaded stretches of the timeline are."""
    colours = slot_colours(dark=dark)
    plain = "#d7dbe3" if dark else "#30343c"
    cells = "".join(
        f'<span><i style="--c:{colours[BAND_SLOTS[band]] if band in BAND_SLOTS else plain};'
        f'opacity:.45"></i>{escape(band)}</span>'
        for band in bands
    )
    outlier = '<span style="--c:#d1495b"><span style="color:var(--c)">▲</span> outlier</span>'
    return f'<div class="bs bs-legend">{cells}{outlier}</div>'


KIND_WORDS = {
    "input": "input",
    "network": "communication",
    "compute": "arithmetic",
    "memory": "moving data",
    "host": "runtime calls, views",
    "storage": "checkpoint",
    "evaluation": "evaluation",
    "none": "ranges, phases, other",
}


def kind_legend(kinds: Iterable[int], *, dark: bool) -> str:
    """Return what the colours of the boxes in the lanes are; `kinds` are indexes into `KINDS`."""
    colours = {**slot_colours(dark=dark), "none": PLAIN[0 if dark else 1]}
    cells = "".join(
        f'<span><i style="--c:{colours[KINDS[kind]]}"></i>{escape(KIND_WORDS[KINDS[kind]])}</span>'
        for kind in kinds
    )
    return f'<div class="bs bs-legend">{cells}</div>'


def compare_card(headline: str, items: Sequence[tuple[str, str]], colour: str) -> str:
    """Return what changed between two runs: the sentence and its figures."""
    return (
        f'<div class="bs bs-card" style="--c:{colour}"><div class="bs-headline" role="heading" '
        f'aria-level="2" data-testid="headline">{escape(headline)}</div>{facts(items)}</div>'
    )
