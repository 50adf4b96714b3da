"""A bundle or a trace that somebody sent, dropped on the page: a stranger's file, opened as one.

It is kept in a temporary folder of the server, which goes when the server ends, and is limited in
size, in what it unpacks to, and in number.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import tempfile
from pathlib import Path
from typing import Any

import streamlit as st

from ..profiler.bundle.layout import SUFFIX
from ..profiler.bundle.limits import Budget, check_trace
from ..profiler.bundle.reading import is_bundle, open_bundle
from ..profiler.errors import BoundscopeError, UnusableData
from ..profiler.library import Source
from . import markup

MAX_MEGABYTES = 200
"""Of one file: a trace of a step of a large model, packed, or a bundle of any size in use."""

MAX_KEPT = 8
KEY = "uploaded/"
_BLOCK = 1 << 20
_GZIP = b"\x1f\x8b"


@st.cache_resource(show_spinner=False)
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="boundscope-uploaded-")


def stored_sources() -> list[Source]:
    """Return what was dropped since the server started, the latest first."""
    kept = sorted(Path(_folder().name).iterdir(), key=lambda path: -path.stat().st_mtime_ns)
    return [_source(path) for path in kept if not path.name.startswith(".")]


def _source(path: Path) -> Source:
    return Source(KEY + path.name, path, "bundle" if path.name.endswith(SUFFIX) else "trace")


def offer() -> None:
    """Show the place to drop a file on, and what became of the one that was dropped."""
    with st.expander("Open a bundle or a trace that somebody sent"):
        given = st.file_uploader(
            "A .boundscope.zip, or a torch-profiler trace (.json, .json.gz)",
            type=["zip", "json", "gz"],
            key="uploaded",
        )
        if given is None:
            return
        source = _outcome(given)
        if isinstance(source, BoundscopeError):
            st.html(markup.note(source.message, source.hint, source.slug, markup.ERROR))
            return
        pages = st.session_state.get("pages", {})
        st.html(markup.paragraph(f"{source.path.name} is kept until the dashboard ends."))
        if "verdict" in pages:
            query = {"run": source.key}
            st.page_link(pages["verdict"], label=f"Open {source.path.name}", query_params=query)


def _outcome(given: Any) -> Source | BoundscopeError:
    """Keep a dropped file once, however often the page is drawn with it; what came of that."""
    before = st.session_state.get("upload-outcome")
    if before is not None and before[0] == given.file_id:
        found: Source | BoundscopeError = before[1]
        if isinstance(found, BoundscopeError) or found.path.exists():
            return found
    try:
        found = keep(given.name, given)
    except BoundscopeError as error:
        found = error
    st.session_state["upload-outcome"] = (given.file_id, found)
    return found


def keep(name: str, data: Any) -> Source:
    """Keep the bytes of a file object under a harmless name; raises UnusableData."""
    folder = Path(_folder().name)
    content = data.read(MAX_MEGABYTES * 1_000_000 + 1)
    if len(content) > MAX_MEGABYTES * 1_000_000:
        raise UnusableData(
            "upload-too-large",
            f"The file is larger than {MAX_MEGABYTES} MB.",
            "open it from the terminal: boundscope dashboard FILE",
        )
    path = folder / _safe(name, content)
    if not path.exists():
        part = folder / f".{path.name}"
        part.write_bytes(content)
        try:
            _check(part, path.name)
        except BoundscopeError:
            part.unlink()
            raise
        part.replace(path)
        _forget_oldest()
    return _source(path)


def _safe(name: str, content: bytes) -> str:
    """Return a name by which the file can be told from others, and that is no path."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", re.split(r"[\\/]", name)[-1].split(".")[0]).strip("-")
    mark = hashlib.sha256(content).hexdigest()[:8]
    if content.startswith(b"PK"):
        ending = SUFFIX
    else:
        ending = ".json.gz" if content.startswith(_GZIP) else ".json"
    return f"{stem[:60] or 'file'}-{mark}{ending}"


def _check(path: Path, name: str) -> None:
    if is_bundle(path):
        open_bundle(path)
        return
    budget = Budget()
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP
        file.seek(0)
        if packed:
            check_trace(path, name, file, budget)
        else:
            while block := file.read(_BLOCK):
                budget.take(path, len(block), block.count(b"{"))
    with gzip.open(path) if packed else path.open("rb") as opened:
        head = opened.read(1 << 16)
    if b'"traceEvents"' not in head and b'"ph"' not in head:
        raise UnusableData(
            "not-a-trace", f"{name} holds no trace events.", "drop a Kineto trace or a bundle"
        )


def _forget_oldest() -> None:
    for source in stored_sources()[MAX_KEPT:]:
        source.path.unlink(missing_ok=True)
