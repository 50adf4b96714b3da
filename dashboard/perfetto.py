"""Hands a raw trace to Perfetto: in the browser, on a click, and nothing before it.

Perfetto's page cannot fetch from 127.0.0.1. Its documented way for tools that hold a trace is a
message from the window that opened it (perfetto.dev, "Deep linking to the Perfetto UI"): the new
window answers PING with PONG once it listens, then gets the bytes. They stay in the browser.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

import streamlit as st

from ..profiler.text import scaled
from . import markup, state

ORIGIN = "https://ui.perfetto.dev"
MAX_BYTES = 32 << 20
"""A larger file is dropped onto Perfetto's page by hand: the browser would hold it three times."""

BUTTON = """<style>
body{margin:0;font:400 1rem "Source Sans Pro",system-ui,sans-serif;color:%(ink)s}
button{font:inherit;color:inherit;background:transparent;border:1px solid %(line)s;
 border-radius:.5rem;padding:.35rem .8rem;cursor:pointer}
span{margin-left:.7rem;opacity:.75;font-size:.9rem}
</style><button id="open">Open in Perfetto</button><span id="said" role="status"></span><script>
const origin = %(origin)s, title = %(title)s;
const said = (text) => { document.getElementById("said").textContent = text; };
const bytes = () => Uint8Array.from(atob(%(data)s), (c) => c.charCodeAt(0)).buffer;
document.getElementById("open").onclick = () => {
  const opened = window.open(origin);
  if (!opened) { said("The browser blocked the new window."); return; }
  const ping = setInterval(() => opened.postMessage("PING", origin), 100);
  const end = () => {
    clearInterval(ping); clearTimeout(late); removeEventListener("message", on);
  };
  const late = setTimeout(() => { end(); said("Perfetto did not answer."); }, 60000);
  const on = (event) => {
    if (event.origin !== origin || event.source !== opened || event.data !== "PONG") return;
    end();
    opened.postMessage({perfetto: {buffer: bytes(), title: title}}, origin);
    said("Handed over to the new window.");
  };
  addEventListener("message", on);
};
</script>"""


def offer(file: Path) -> None:
    """Offer the raw trace: to the Perfetto window that a click opens, or as a download."""
    size = file.stat().st_size
    if not st.toggle("Raw trace window, for Perfetto", key="perfetto"):
        return
    if size > MAX_BYTES:
        words = f"{scaled(size, 'B')} is too much to pass on. Open {ORIGIN} and drop there:"
        state.html(markup.paragraph(words) + markup.places([str(file)]))
        return
    words = (
        f"{scaled(size, 'B')}. The click opens {ORIGIN} in a new window, which reads the trace in "
        "this browser; without the click nothing leaves this page."
    )
    state.html(markup.paragraph(words))
    data = file.read_bytes()
    st.iframe(_button(file.name, data, dark=state.is_dark()), height=46)
    st.download_button("Download the trace", data, file_name=file.name, on_click="ignore")


def _button(title: str, data: bytes, *, dark: bool) -> str:
    return BUTTON % {
        "origin": json.dumps(ORIGIN),
        "title": json.dumps(title).replace("<", "\\u003c"),  # no tag, and no comment, begins in it
        "data": json.dumps(base64.b64encode(data).decode()),
        "ink": "#fafafa" if dark else "#31333f",
        "line": "rgba(255,255,255,.25)" if dark else "rgba(0,0,0,.2)",
    }
