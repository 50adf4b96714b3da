"""The suite itself: a case that is run once more is not judged by what it did before."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import harness
from .harness import Case, Done, Runs


@pytest.mark.parametrize("group", ["", "some"])
def test_a_case_that_is_run_anew_gets_runs_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str
) -> None:
    # Given
    def finish(words: list[str], cwd: Path, *_: object) -> Done:
        return Done(0, "", "", 0.0, cwd)

    monkeypatch.setattr(harness, "finish", finish)
    monkeypatch.setattr(harness, "part_of", lambda whole, _name: whole)
    case, other = Case("one", group=group), Case("other", group=group)
    runs = Runs(tmp_path, [case, other])
    before = [runs.wrapped(case), runs.plain(case), runs.wrapped(other)]

    # When
    runs.forget(case)

    # Then
    after = [runs.wrapped(case), runs.plain(case), runs.wrapped(other)]
    runs.close()
    assert before[2] is after[2]
    assert len({done.cwd for done in [*before[:2], *after[:2]]}) == 4
