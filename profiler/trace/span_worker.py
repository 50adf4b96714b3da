"""The other end of `split`: reads the spans named on stdin, and writes their parts to stdout."""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path

from .span import Span, SpanReader
from .wire import part_header, write_frame


def main() -> int:
    """Serve until stdin ends.

    The first line is {"path", "layout"}, each other one a span. The answer to a span is a frame
    with {"next": where the next event begins} and its part, or {"next": null} and then the end.
    """
    setting = json.loads(sys.stdin.buffer.readline())
    exact, first_keys = setting["layout"]
    reader = SpanReader(Path(setting["path"]), (exact, first_keys))
    gc.disable()  # decoded events hold no cycles, but many objects
    out = sys.stdout.buffer
    for line in sys.stdin.buffer:
        found = reader.read(Span(*json.loads(line)))
        if found is None:
            write_frame(out, {"next": None}, {})
            return 0
        part, following = found
        write_frame(out, {"next": following} | part_header(part), part.columns)
    return 0


if __name__ == "__main__":
    sys.exit(main())
