"""`boundscope run` leaves a command as it is and keeps its run folder. Real processes, no torch."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from boundscope.collectors.records import Manifest
from boundscope.profiler.command_line import resolve
from boundscope.profiler.compress import compress_traces
from boundscope.profiler.environment import environment
from boundscope.profiler.run.manifest import read_manifest
from boundscope.profiler.run.status import effective_status

BOUNDSCOPE = str(Path(sys.executable).parent / "boundscope")


def wrapped(
    *words: str, cwd: Path, options: tuple[str, ...] = ("--no-report",), **more: object
) -> subprocess.CompletedProcess[str]:
    command = [BOUNDSCOPE, "run", *options, *words]
    return subprocess.run(
        command, cwd=cwd, text=True, capture_output=True, timeout=60, check=False, **more
    )


def script(folder: Path, text: str, name: str = "train.py") -> str:
    (folder / name).write_text(text)
    return name


def only_run(folder: Path) -> Path:
    (run,) = (folder / "runs").iterdir()
    return run


def until(condition: Callable[[], object], timeout_s: float = 15) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def manifest_when(run: Path, condition: Callable[[Manifest], object]) -> Manifest:
    until(lambda: (run / "manifest.json").exists() and condition(read_manifest(run)))
    return read_manifest(run)


@pytest.mark.parametrize(("code", "status"), [(0, "finished"), (3, "failed"), (255, "failed")])
def test_exit_code_is_the_commands_own(tmp_path: Path, code: int, status: str) -> None:
    name = script(tmp_path, f"raise SystemExit({code})")

    done = wrapped(name, cwd=tmp_path)

    manifest = read_manifest(only_run(tmp_path))
    assert done.returncode == code
    assert (manifest.status, manifest.exit_code, manifest.signal) == (status, code, None)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGINT])
def test_a_fatal_signal_of_the_command_ends_the_launcher_too(
    tmp_path: Path, number: signal.Signals
) -> None:
    text = "import os, signal\nsignal.signal({0}, 0) if {0} != 9 else 0\nos.kill(os.getpid(), {0})"
    name = script(tmp_path, text.format(int(number)))

    done = wrapped(name, cwd=tmp_path)

    manifest = read_manifest(only_run(tmp_path))
    assert done.returncode == -number
    assert (manifest.status, manifest.exit_code, manifest.signal) == ("killed", None, number)
    assert not list(tmp_path.glob("core*"))


def test_a_shell_sees_128_plus_the_signal(tmp_path: Path) -> None:
    name = script(tmp_path, "import os; os.kill(os.getpid(), 15)")

    done = subprocess.run(
        ["sh", "-c", f"{BOUNDSCOPE} run --no-report {name}; echo $?"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert done.stdout.strip() == "143"


def test_arguments_folder_environment_and_streams_are_the_same_as_without(tmp_path: Path) -> None:
    text = """
import json, os, sys
hidden = ("BOUNDSCOPE_RUN", "BOUNDSCOPE_VERSION", "PYTHONPATH", "_")
environment = {k: v for k, v in os.environ.items() if k not in hidden}
status = dict(line.split(":\\t") for line in open("/proc/self/status"))
libc = 1 << 31 | 1 << 32  # its two own signals, which posix_spawn leaves ignored and libc sets up
signals = [status["SigBlk"], int(status["SigIgn"], 16) & ~libc, status["Umask"]]
print(json.dumps([sys.argv, sys.path[0], os.getcwd(), environment, signals, os.getpgrp()]))
print(sys.stdin.read(), file=sys.stderr)
print(os.read(int(sys.argv[1]), 5).decode())
"""
    name = script(tmp_path, text)
    answers = []

    for command in ([sys.executable], [BOUNDSCOPE, "run", "--no-report"]):
        reading, writing = os.pipe()
        os.write(writing, b"extra")
        answers.append(
            subprocess.run(
                [*command, name, str(reading), "--", "-o", "x y"],
                cwd=tmp_path, input="from stdin", text=True, capture_output=True,
                pass_fds=[reading], timeout=60, check=False,
            )
        )  # fmt: skip
        os.close(reading)
        os.close(writing)

    plain, run = answers
    plain_out, run_out = plain.stdout.splitlines(), run.stdout.splitlines()
    plain_facts, run_facts = json.loads(plain_out[0]), json.loads(run_out[0])
    plain_facts[0][1] = run_facts[0][1]  # the descriptor's number
    assert run_facts == plain_facts
    assert run_out[1] == plain_out[1] == "extra"
    assert run.stderr == plain.stderr == "from stdin\n"


def test_stdout_is_a_terminal_in_the_command_when_it_is_one_outside(tmp_path: Path) -> None:
    name = script(tmp_path, "import os; print([os.isatty(n) for n in (0, 1, 2)])")

    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.execv(BOUNDSCOPE, [BOUNDSCOPE, "run", "--no-report", name])
    seen = read_to_end(terminal)
    _, status = os.waitpid(pid, 0)
    os.close(terminal)

    assert "[True, True, True]" in seen
    assert os.waitstatus_to_exitcode(status) == 0


def read_to_end(terminal: int) -> str:
    seen = b""
    while True:
        try:
            data = os.read(terminal, 4096)
        except OSError:  # EIO: the other side has gone
            return seen.decode()
        if not data:
            return seen.decode()
        seen += data


def test_the_run_folder_has_manifest_node_folder_and_nothing_left_over(tmp_path: Path) -> None:
    name = script(tmp_path, "import time; time.sleep(0.5)", "my_train.py")

    wrapped(name, cwd=tmp_path)

    run = only_run(tmp_path)
    names = {path.name for path in run.iterdir()}
    assert run.name.endswith("-my_train")
    assert {"manifest.json", f"node-{os.uname().nodename}"} == names
    for file in run.glob("node-*/*.jsonl"):
        first = json.loads(file.read_text().splitlines()[0])
        assert (first["t"], first["collector"]) == ("header", file.stem)


def test_the_manifest_tells_what_ran_and_where(tmp_path: Path) -> None:
    text = """
import os, pathlib, time
manifest = pathlib.Path(os.environ["BOUNDSCOPE_RUN"], "manifest.json")
time.sleep(0.3)
until = time.monotonic() + 30
while '"environment"' not in manifest.read_text() and time.monotonic() < until:
    time.sleep(0.02)  # the facts are found beside the command
"""
    name = script(tmp_path, text)

    began = time.monotonic()
    wrapped(name, "--lr", "0.1", cwd=tmp_path, options=("--no-report", "--name", "my run"))
    took = time.monotonic() - began

    manifest = read_manifest(only_run(tmp_path))
    facts = manifest.environment
    assert manifest.name == "my-run"
    assert manifest.command == ["train.py", "--lr", "0.1"]
    assert manifest.cwd == str(tmp_path)
    assert manifest.child_pid > 0
    assert 0.3 < (manifest.ended_ns - manifest.started_ns) / 1e9 < took
    assert int(facts["hardware"]["memory_bytes"]) == os.sysconf("SC_PHYS_PAGES") * os.sysconf(
        "SC_PAGE_SIZE"
    )
    assert float(facts["limits"]["cores"]) <= os.cpu_count()
    assert facts["launcher"]["kind"] == "python"


def test_the_manifest_is_never_seen_half_written(tmp_path: Path) -> None:
    run = tmp_path / "run"
    name = script(tmp_path, "import time; time.sleep(1)")
    command = [BOUNDSCOPE, "run", "--no-report", "-o", str(run), name]
    states = set()

    with subprocess.Popen(command, cwd=tmp_path) as launcher:
        while launcher.poll() is None:
            if (run / "manifest.json").exists():
                states.add(read_manifest(run).status)  # raises when it is torn

    states.add(read_manifest(run).status)
    assert states == {"running", "finished"}


def test_a_folder_is_made_for_each_run_even_in_the_same_second(tmp_path: Path) -> None:
    name = script(tmp_path, "pass")
    command = [BOUNDSCOPE, "run", "--no-report", name]

    launchers = [subprocess.Popen(command, cwd=tmp_path) for _ in range(3)]
    codes = [launcher.wait(60) for launcher in launchers]

    assert codes == [0, 0, 0]
    assert len(list((tmp_path / "runs").glob("*/manifest.json"))) == 3


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (("train.py", "a"), "file a"),
        (("-m", "pack.module", "a"), "module a"),
        (("--", "-m", "pack.module", "a"), "module a"),
        (("python", "train.py", "a"), "file a"),
        (("./shebang", "a"), "shebang a"),
        (("sh", "-c", "echo shell $0", "a"), "shell a"),
        (("./no_shebang", "a"), "bare a"),
    ],
)
def test_every_form_of_command_runs(tmp_path: Path, words: tuple[str, ...], shown: str) -> None:
    script(tmp_path, "import sys; print('file', sys.argv[1])")
    (tmp_path / "pack").mkdir()
    script(tmp_path / "pack", "import sys; print('module', sys.argv[1])", "module.py")
    script(tmp_path, "#!/usr/bin/env python3\nimport sys; print('shebang', sys.argv[1])", "shebang")
    script(tmp_path, "echo bare $1\n", "no_shebang")
    (tmp_path / "no_shebang").chmod(0o755)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    done = wrapped(*words, cwd=tmp_path, env={**os.environ, "PATH": path})

    assert (done.stdout.strip(), done.returncode) == (shown, 0)


def test_the_users_pythonpath_stays_behind_ours(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    theirs = "import os; 'BOUNDSCOPE_RUN' in os.environ and print('their sitecustomize')"
    script(tmp_path / "theirs", theirs, "sitecustomize.py")
    name = script(tmp_path, "import os; print(os.environ['PYTHONPATH'].split(':')[1:])")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}/theirs:"}

    done = wrapped(name, cwd=tmp_path, env=environment)

    assert done.stdout.splitlines() == ["their sitecustomize", f"['{tmp_path}/theirs', '']"]


def test_the_users_own_modules_of_our_names_do_no_harm(tmp_path: Path) -> None:
    for name in ("profiler.py", "collectors.py", "boundscope_user.py"):
        script(tmp_path, f"WHOSE = 'the user, {name}'", name)
    (tmp_path / "dashboard").mkdir()
    script(tmp_path / "dashboard", "WHOSE = 'the user, dashboard'", "__init__.py")
    name = script(
        tmp_path,
        "import profiler, collectors, dashboard\n"
        "print(profiler.WHOSE, collectors.WHOSE, dashboard.WHOSE)",
    )

    done = wrapped(name, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)})

    assert done.stdout.strip() == (
        "the user, profiler.py the user, collectors.py the user, dashboard"
    )
    assert done.returncode == 0


@pytest.mark.parametrize("option", ["-I", "-E", "-S", "-BIs"])
def test_an_isolated_interpreter_is_named_as_a_gap(tmp_path: Path, option: str) -> None:
    name = script(tmp_path, "print('ran')")

    done = wrapped(sys.executable, option, name, cwd=tmp_path)

    gaps = [gap for gap in read_manifest(only_run(tmp_path)).gaps if gap.collector == "inside"]
    assert done.stdout == "ran\n"
    assert [gap.reason for gap in gaps] == ["switched-off"]
    assert "python -" in gaps[0].detail


def test_without_inside_starts_nothing_in_the_command(tmp_path: Path) -> None:
    name = script(tmp_path, "import os; print(os.environ.get('BOUNDSCOPE_RUN'))")

    done = wrapped(name, cwd=tmp_path, options=("--no-report", "--without", "inside,host"))

    gaps = {gap.collector: gap.reason for gap in read_manifest(only_run(tmp_path)).gaps}
    assert done.stdout == "None\n"
    assert gaps["inside"] == gaps["host"] == "switched-off"


def test_a_killed_launcher_leaves_the_command_and_no_other_process(tmp_path: Path) -> None:
    text = """
import pathlib, time
while not pathlib.Path("stop").exists():
    time.sleep(0.02)
print("trained on", flush=True)
pathlib.Path("trained").write_text("on")
"""
    run = tmp_path / "run"
    command = [BOUNDSCOPE, "run", "--no-report", "-o", str(run), script(tmp_path, text)]

    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, start_new_session=True
    ) as launcher:
        manifest = manifest_when(run, lambda manifest: manifest.child_pid)
        time.sleep(0.5)
        launcher.kill()
        launcher.wait()
        until(lambda: session_of(launcher.pid) == {manifest.child_pid})
        left = session_of(launcher.pid)
        (tmp_path / "stop").touch()
        out = launcher.stdout.read()

    assert left == {manifest.child_pid}
    assert out == b"trained on\n"
    assert (tmp_path / "trained").exists()
    assert read_manifest(run).status == "running"
    assert effective_status(read_manifest(run), run) == "killed"


def session_of(leader: int) -> set[int]:
    """The live processes of a session."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == leader and fields[0] != "Z":
                found.add(int(entry.name))
    return found


def test_nothing_of_ours_stays_after_the_end(tmp_path: Path) -> None:
    name = script(tmp_path, "import time; time.sleep(0.5)")
    command = [BOUNDSCOPE, "run", "--no-report", name]

    with subprocess.Popen(command, cwd=tmp_path, start_new_session=True) as launcher:
        launcher.wait(60)

    assert session_of(launcher.pid) == set()


def test_the_run_ends_with_a_report_its_stored_diagnosis_and_the_next_command(
    tmp_path: Path,
) -> None:
    name = script(tmp_path, "print('no torch here'); raise SystemExit(3)")

    done = wrapped(name, cwd=tmp_path, options=())

    run = only_run(tmp_path)
    stored = json.loads((run / "diagnosis.json").read_text())
    assert (done.stdout, done.returncode) == ("no torch here\n", 3)
    assert stored["verdict"]["headline"] in done.stderr.replace("\n", " ")
    assert done.stderr.splitlines()[-1] == f"boundscope diagnose {run.relative_to(tmp_path)}"


def test_a_report_that_fails_says_so_and_keeps_the_exit_code(tmp_path: Path) -> None:
    text = "import os, shutil; shutil.rmtree(os.environ['BOUNDSCOPE_RUN']); raise SystemExit(3)"
    name = script(tmp_path, text)

    done = wrapped(name, cwd=tmp_path, options=())

    assert done.returncode == 3
    assert "warning[report-failed]" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_full_disk_at_the_start_costs_the_run_but_not_the_training(
    tmp_path: Path, small_disk: Path
) -> None:
    name = script(tmp_path, "import os; print('trained', os.environ.get('BOUNDSCOPE_RUN'))")
    fill(small_disk)

    done = wrapped(name, cwd=tmp_path, options=("-o", str(small_disk / "run")))

    assert (done.stdout, done.returncode) == ("trained None\n", 0)
    assert "warning[disk-full]" in done.stderr


def test_a_disk_that_fills_up_meanwhile_costs_neither_training_nor_exit_code(
    tmp_path: Path, small_disk: Path
) -> None:
    text = """
import os, time
time.sleep(1)
with open(os.environ["BOUNDSCOPE_RUN"] + "/../filler", "wb", buffering=0) as file:
    try:
        while True:
            file.write(bytes(65536))
    except OSError:
        pass
time.sleep(1)
print("trained")
raise SystemExit(3)
"""
    name = script(tmp_path, text)

    done = wrapped(name, cwd=tmp_path, options=("--no-report", "-o", str(small_disk / "run")))

    assert (done.stdout, done.stderr, done.returncode) == ("trained\n", "", 3)
    assert read_manifest(small_disk / "run").status == "failed"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting is not allowed here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk: Path) -> None:
    with (disk / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    assert os.statvfs(disk).f_bavail == 0


def test_traces_are_compressed_and_those_of_a_full_disk_are_left(
    tmp_path: Path, small_disk: Path
) -> None:
    trace = b'{"traceEvents": []}' * 100
    for folder in (tmp_path / "run", small_disk / "run"):
        (folder / "rank-0-1").mkdir(parents=True)
        (folder / "rank-0-1" / "trace-0.json").write_bytes(trace)
    (small_disk / "run/rank-0-1/trace-1.json").write_bytes(os.urandom(600_000))
    fill(small_disk)

    left = [compress_traces(folder) for folder in (tmp_path / "run", small_disk / "run")]

    assert left[0] == []
    assert [path.name for path in left[1]][-1] == "trace-1.json"
    assert [path.name for path in (tmp_path / "run/rank-0-1").iterdir()] == ["trace-0.json.gz"]
    assert gzip.decompress((tmp_path / "run/rank-0-1/trace-0.json.gz").read_bytes()) == trace
    assert not list(small_disk.glob("run/*/*.part"))
    assert (small_disk / "run/rank-0-1/trace-1.json").stat().st_size == 600_000


def test_git_facts_are_of_the_scripts_folder(tmp_path: Path, monkeypatch) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    name = script(repository, "pass")
    for words in (
        ("init", "-q"),
        ("add", name),
        ("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "first"),
    ):
        subprocess.run(["git", "-C", str(repository), *words], check=True)
    monkeypatch.chdir(tmp_path)
    command = resolve([f"repository/{name}"])

    clean = environment(command, "1")["git"]
    script(repository, "changed = True")
    dirty = environment(command, "1")["git"]

    assert len(clean["commit"]) == 40
    assert (clean["dirty"], dirty["dirty"]) == ("no", "yes")


def test_only_listed_variables_are_kept(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "a-secret")
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.9.8.7")

    facts = environment(resolve(["sh", "--nproc-per-node=4"]), "1")

    text = json.dumps(facts)
    assert facts["scheduler"]["SLURM_JOB_ID"] == "4711"
    assert facts["scheduler"]["kubernetes"] == "yes"
    assert facts["launcher"]["OMP_NUM_THREADS"] == "3"
    assert facts["launcher"]["nproc_per_node"] == "4"
    assert "a-secret" not in text
    assert "10.9.8.7" not in text
