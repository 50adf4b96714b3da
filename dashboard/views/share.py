"""The run as one redacted file, with what is in it and what was taken out, and the issue's text."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from ...profiler.bundle.layout import DEFAULT_MAX_BYTES, BundleManifest
from ...profiler.bundle.reading import open_bundle
from ...profiler.bundle.summary import to_issue
from ...profiler.bundle.writing import make_bundle
from ...profiler.library import Source, open_run
from ...profiler.redact import KEEPABLE
from ...profiler.text import plural, scaled
from .. import markup, state

AT_ONCE_BYTES = 8 << 20
"""Up to so many bytes of traces the bundle is made when the page opens, in about 2 s."""

SIZES = {
    "25 MB (GitHub's limit)": DEFAULT_MAX_BYTES,
    "10 MB": 10_000_000,
    "1 MB": 1_000_000,
    "100 MB": 100_000_000,
}
KEPT = 4
SAME = {
    True: "A diagnosis made anew from the bundle gives the same figures.",
    False: "The bundle shows the diagnosis of the whole recording; its own data say slightly less.",
    None: "The bundle shows the diagnosis of the whole recording.",
}


@dataclass(frozen=True)
class _Made:
    """A bundle in memory, to be looked at and downloaded."""

    name: str
    data: bytes
    manifest: BundleManifest
    markdown: str


@st.cache_data(show_spinner="Making the bundle …", max_entries=KEPT)
def _made(
    _source: Source,
    key: tuple[str, int],  # noqa: ARG001 - what the cache tells sources by
    max_bytes: int,
    keep: tuple[str, ...],
) -> _Made:
    with tempfile.TemporaryDirectory(prefix="boundscope-") as folder:
        target = Path(folder)
        made = make_bundle(_source.path, target, max_bytes=max_bytes, keep=frozenset(keep))
        return _Made(made.path.name, made.path.read_bytes(), made.manifest, made.markdown)


def _view(source: Source) -> None:
    state.html(markup.title("Share", state.name_of(source)))
    state.html(markup.paragraph("One redacted file of this run, to attach to a bug report."))
    if source.kind == "bundle":
        _show(_as_it_is(source))
        return
    max_bytes, keep = _options()
    large = _trace_bytes(source) > AT_ONCE_BYTES
    key = ("bundle", source.key, source.stamp, max_bytes, keep)
    if large and st.session_state.get("bundle") != key:
        state.html(markup.paragraph("The traces are large: the bundle takes a while to make."))
        if not st.button("Make the bundle", type="primary"):
            return
    st.session_state["bundle"] = key
    _show(_made(source, (str(source.path), source.stamp), max_bytes, keep))


page = state.page_of_run(_view)


def _options() -> tuple[int, tuple[str, ...]]:
    left, right = st.columns([2, 3])
    with left:
        size = state.pick("Largest size", list(SIZES))
    keep = right.multiselect(
        "Do not redact", KEEPABLE, placeholder="nothing: redact everything private"
    )
    if keep:
        words = ", ".join(keep)
        state.html(markup.note(f"{words[:1].upper()}{words[1:]} will be readable in the file."))
    return SIZES[size], tuple(keep)


def _trace_bytes(source: Source) -> int:
    files = source.path.glob("rank-*/trace-*") if source.kind == "run" else source.files
    return sum(path.stat().st_size for path in files)


def _as_it_is(source: Source) -> _Made:
    bundle = open_bundle(source.path)
    run = open_run(source) if bundle.manifest.kind == "run" else None
    markdown = to_issue(bundle.diagnosis, run, source.path.name)
    return _Made(source.path.name, source.path.read_bytes(), bundle.manifest, markdown)


def _show(made: _Made) -> None:
    manifest = made.manifest
    # A button's label is Markdown, and the name of a file that somebody sent may be any.
    state.html(markup.places([made.name]))
    st.download_button(
        f"Download ({scaled(float(len(made.data)), 'B')})",
        made.data,
        made.name,
        "application/zip",
        type="primary",
        on_click="ignore",
    )
    state.html(markup.paragraph(SAME[manifest.same_from_data]))
    inside, taken = st.columns(2, gap="large")
    with inside:
        rows = [(member.what or member.name, _size(member.size)) for member in manifest.members]
        state.html(markup.heading("In the file") + markup.bullets(rows))
        if manifest.left_out:
            left = [(item.what, item.reason) for item in manifest.left_out]
            state.html(markup.heading("Left out") + markup.bullets(left))
    with taken:
        found = markup.bullets(_redactions(manifest)) if manifest.redacted else ""
        nothing = markup.paragraph("Nothing had to be.")
        state.html(markup.heading("Redacted") + (found or nothing))
        if manifest.kept:
            state.html(markup.note(f"Not redacted: {', '.join(manifest.kept)}."))
    state.html(markup.heading("Text for the issue"))
    state.html(markup.code(made.markdown))
    state.let_copy()


def _redactions(manifest: BundleManifest) -> list[tuple[str, str]]:
    return [
        (f"{plural(item.count, item.kind)} in {item.where}, e.g. {item.example}", "")
        for item in manifest.redacted
    ]


def _size(size: int) -> str:
    return scaled(float(size), "B")
