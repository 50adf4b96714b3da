"""The errors that reach a user: one sentence, one hint, and a slug that the docs explain."""

from __future__ import annotations

EXIT_CHECK_FAILED = 1
EXIT_USAGE = 2
EXIT_UNUSABLE_DATA = 3


class BoundscopeError(Exception):
    """What went wrong, in a sentence; caught once, at the command line.

    `slug` names the page section in docs/errors.md; `hint` says what to do about it.
    """

    exit_code = EXIT_UNUSABLE_DATA

    def __init__(self, slug: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.slug = slug
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[type[BoundscopeError], tuple[str, str, str]]:
        return type(self), (self.slug, self.message, self.hint)

    def __str__(self) -> str:
        text = f"error[{self.slug}]: {self.message}"
        return f"{text}\nhint: {self.hint}" if self.hint else text


class UsageError(BoundscopeError):
    """The command line asked for something that cannot be done."""

    exit_code = EXIT_USAGE


class UnusableData(BoundscopeError):
    """The given run, bundle or trace cannot be read."""

    exit_code = EXIT_UNUSABLE_DATA
