"""Finds the place in the user's code that a call came from."""

from __future__ import annotations

import os
import sys
from types import FrameType

from ..records import Site

MAX_FRAMES = 60


class SiteBook:
    """Numbers places of the user's code, each written once as a `Site` record."""

    def __init__(self) -> None:
        here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        torch = sys.modules.get("torch")
        torch_folder = os.path.dirname(os.path.abspath(getattr(torch, "__file__", None) or here))
        standard = os.path.dirname(os.__file__)
        self._own = here + os.sep
        self._foreign = (self._own, torch_folder + os.sep, "<frozen")
        self._library = (os.sep + "site-packages" + os.sep, os.sep + "dist-packages" + os.sep)
        self._standard = standard + os.sep
        self._known: dict[tuple[str, str, int], int] = {}

    def locate(self, depth: int = 1) -> tuple[str, int, str]:
        """File, line and function of the nearest frame that is the user's own.

        Frames of torch and of boundscope never count; frames of installed packages and of the
        standard library count only when no frame of the user's own is above them.
        """
        frame: FrameType | None = sys._getframe(depth)
        second_best: FrameType | None = None
        for _ in range(MAX_FRAMES):
            if frame is None:
                break
            file = frame.f_code.co_filename
            if not file.startswith(self._foreign):
                library = file.startswith(self._standard) or any(p in file for p in self._library)
                if not library:
                    return file, frame.f_lineno, frame.f_code.co_name
                second_best = second_best or frame
            frame = frame.f_back
        if second_best is None:
            return "", 0, ""
        return second_best.f_code.co_filename, second_best.f_lineno, second_best.f_code.co_name

    def number(self, what: str, file: str, line: int) -> tuple[int, bool]:
        """Index of the place among its kind, and whether it is new."""
        key = (what, file, line)
        known = self._known.get(key)
        if known is not None:
            return known, False
        index = sum(1 for other in self._known if other[0] == what)
        self._known[key] = index
        return index, True

    def site(
        self, what: str, depth: int = 1, facts: dict[str, str] | None = None
    ) -> tuple[int, Site | None]:
        """Index of the calling place, with the record to write when it is new."""
        file, line, function = self.locate(depth + 1)
        index, new = self.number(what, file, line)
        if not new:
            return index, None
        return index, Site(what, index, file, line, function, facts or {})
