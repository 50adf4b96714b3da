"""What the reader noticed while it read: counted by slug, said once each."""

from __future__ import annotations

from .table import TraceWarning


class Notes:
    """Collects warnings; the first text of a slug stands, the counts add up."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._counts: dict[str, int] = {}

    def add(self, slug: str, text: str, count: int = 1) -> None:
        """Count `count` more cases of `slug`; nothing where `count` is 0."""
        if count <= 0:
            return
        self._texts.setdefault(slug, text)
        self._counts[slug] = self._counts.get(slug, 0) + count

    def __contains__(self, slug: str) -> bool:
        return slug in self._texts

    def take(self) -> list[tuple[str, str, int]]:
        """Return (slug, text, count) of every slug, and forget them."""
        taken = [(slug, text, self._counts[slug]) for slug, text in self._texts.items()]
        self._texts, self._counts = {}, {}
        return taken

    def warnings(self) -> list[TraceWarning]:
        """Every slug with its text and count, in the order first noticed."""
        return [TraceWarning(slug, text, self._counts[slug]) for slug, text in self._texts.items()]
