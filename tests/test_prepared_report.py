"""What the report needs is imported while the command runs, so that the report comes at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

LEFT_TO_IMPORT = """
import pathlib, sys
from boundscope.profiler.commands.run import prepare_report, report
prepare_report()
prepared = set(sys.modules)
report(pathlib.Path(sys.argv[1]), debug=True)
late = sorted(set(sys.modules) - prepared)
print([name for name in late if name.startswith(("boundscope.profiler.rules", "numpy", "rich."))])
"""


def test_what_the_report_imports_is_there_when_the_command_ends(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "boundscope", "run", "-o", "run", "--", sys.executable]
    subprocess.run([*command, "-c", "print(1)"], check=True, capture_output=True, cwd=tmp_path)

    command = [sys.executable, "-c", LEFT_TO_IMPORT, "run"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)

    assert "Traceback" not in done.stderr
    assert done.stdout == "[]\n"
