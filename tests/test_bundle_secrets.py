"""200 secrets planted in every place of a recording that can carry one: none leaves."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from boundscope.collectors.records import (
    Frame,
    Gap,
    Header,
    Manifest,
    Process,
    Record,
    Sample,
    Site,
    Stack,
    Stacks,
    Window,
)
from boundscope.profiler.bundle.reading import open_bundle
from boundscope.profiler.bundle.writing import Made, make_bundle
from boundscope.profiler.diagnose import diagnose_run
from boundscope.profiler.run.manifest import read_manifest, write_manifest

from .bundle_material import TRAINING, Secret, everything_in, leaks, record, secrets

PLANTED = secrets()
NUMBER = 70_707_070_707
"""Numbers that are secrets by their names alone: they begin with these digits."""
decode = msgspec.json.Decoder(Record).decode
encode = msgspec.json.encode


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was really recorded, from a folder and with arguments that carry secrets."""
    home = tmp_path_factory.mktemp("recorded")
    script = home / "train.py"
    shutil.copy(TRAINING, script)
    return record(home / "run", str(script), "--steps", "60")


@pytest.fixture(scope="module")
def planted(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run with every secret in every place."""
    folder = tmp_path_factory.mktemp("full") / f"{needle('user')}-{needle('host')}-planted"
    shutil.copytree(run, folder)
    for plant in PLACES:
        plant(folder)
    return folder


@pytest.fixture(scope="module")
def made(planted: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_bundle(planted, tmp_path_factory.mktemp("made"))


def change(path: Path, edit: Callable[[Any], Any]) -> None:
    lines = [edit(decode(line)) for line in path.read_bytes().splitlines()]
    path.write_bytes(b"".join(encode(line) + b"\n" for line in lines))


def append(path: Path, records: list[Record]) -> None:
    with path.open("ab") as file:
        file.writelines(encode(item) + b"\n" for item in records)


def one(folder: Path, pattern: str) -> Path:
    return sorted(folder.glob(pattern))[0]


def in_the_manifest(folder: Path) -> None:
    manifest = read_manifest(folder)
    words = [word for secret in PLANTED for word in secret.words]
    values = {f"V{number}": secret.text for number, secret in enumerate(PLANTED)}
    gap = msgspec.structs.replace(manifest.gaps[0], detail="; ".join(s.text for s in PLANTED))
    environment = {
        **manifest.environment,
        "variables": values,
        "git": {**manifest.environment.get("git", {}), "remote": texts("git remote")},
        "launcher": {
            "kind": "python",
            "NCCL_SOCKET_IFNAME": texts("mac"),
            "CUDA_VISIBLE_DEVICES": ",".join(s.needles[0] for s in PLANTED if "uuid" in s.kind),
            **values,
        },
        "hardware": {**manifest.environment["hardware"], "serial": texts("serial")},
    }
    write_manifest(
        folder,
        msgspec.structs.replace(
            manifest,
            name=f"run of {texts('user')}",
            cwd=f"/home/{needle('user')}/{needle('path')}/{needle('github')}",
            host=needle("host"),
            version=f"0.1.0 {everything()}",
            job=f"master {needle('peer')}:29500",
            command=[
                *manifest.command,
                *words,
                *(f"MY_{i}={s.text}" for i, s in enumerate(PLANTED)),
            ],
            environment=environment,
            gaps=[*manifest.gaps, gap],
        ),
    )


def everything(separator: str = " ") -> str:
    return separator.join(secret.text for secret in PLANTED)


def needle(kind: str) -> str:
    return next(secret.needles[0] for secret in PLANTED if secret.kind == kind)


def texts(kind: str) -> str:
    return " ".join(secret.text for secret in PLANTED if secret.kind == kind)


def in_hosts(folder: Path) -> None:
    """Hosts with names of their own, in headers and as the names of folders."""
    for secret in (s for s in PLANTED if s.kind == "host"):
        node = folder / f"node-{secret.needles[0]}"
        shutil.copytree(one(folder, "node-*"), node)
        for path in node.glob("*.jsonl"):
            change(
                path,
                lambda item, host=secret.needles[0]: (
                    msgspec.structs.replace(item, host=host) if isinstance(item, Header) else item
                ),
            )


def in_records(folder: Path) -> None:
    steps = one(folder, "rank-*/steps.jsonl")
    now = read_manifest(folder).started_ns
    records: list[Record] = []
    for number, secret in enumerate(PLANTED, start=100):
        text = secret.text
        facts = {"dataset": text, "fetch_file": f"/mnt/x/{text}", "token": secret.needles[0]}
        records += [
            Site("save", number, f"/srv/{text}/a.py", 3, text, facts),
            Gap(now, "inside", "crashed", f'Traceback\n  File "{text}", line 3\nKeyError: {text}'),
            Process(7, 1, f"3.11 {text}", text, ["x.py", *secret.words], {"executable": text}),
            Window(number + 500, now, now, 1, 1, "", 0, text),
        ]
    append(steps, records)
    # The last process of the file is the rank's: it must stay the real one.
    real = [r for r in map(decode, steps.read_bytes().splitlines()) if isinstance(r, Process)]
    append(steps, [next(r for r in reversed(real) if r.pid != 7)])


def in_stacks(folder: Path) -> None:
    stacks = one(folder, "node-*/stacks.jsonl")
    now = read_manifest(folder).started_ns
    records: list[Record] = []
    for number, secret in enumerate(PLANTED, start=5_000):
        records += [
            Frame(number, secret.text, f"/opt/{secret.text}/model.py", 7),
            Stack(number, [number]),
            Stacks(now, now + 10**9, 10**7, 1, 1, [(number, 2)], "worker", secret.text),
        ]
    append(stacks, records)


def in_recordings(folder: Path) -> None:
    """What py-spy wrote while its launcher was killed."""
    events = [
        {"name": name, "ph": phase, "tid": 7, "ts": at + number * 1_000, "args": place}
        for number, secret in enumerate(PLANTED)
        for phase, at in (("B", 0), ("E", 900))
        for name, place in [(secret.text, {"filename": f"/opt/{secret.text}/m.py", "line": 3})]
    ]
    path = one(folder, "node-*") / "stacks-7-rank-0-1000000.part"
    path.write_text(json.dumps(events))


def in_roofs(folder: Path) -> None:
    path = folder / "roofs.json"
    roofs = json.loads(path.read_text()) if path.exists() else {"flops": {}, "bandwidth": {}}
    texts_of_all = [secret.text for secret in PLANTED]
    roofs |= {"device": f"CPU {everything()}", "notes": texts_of_all, "key": needle("github")}
    for rates in ("flops", "bandwidth"):
        roofs[rates] |= dict.fromkeys(texts_of_all, 1.0)
    path.write_text(json.dumps(roofs))


def in_other_launchers(folder: Path) -> None:
    own = json.loads((folder / "manifest.json").read_text())
    (one(folder, "node-*") / "launcher-77.json").write_text(
        json.dumps(own | {"name": everything(), "command": [everything()]})
    )


def in_metrics(folder: Path) -> None:
    path = one(folder, "node-*/storage.jsonl")
    now = read_manifest(folder).started_ns
    append(path, [Sample(now, {f"disk.{secret.text}.busy": 1.0 for secret in PLANTED})])


def in_traces(folder: Path) -> None:
    for path in folder.glob("rank-*/trace-*.json.gz"):
        trace = json.loads(gzip.decompress(path.read_bytes()))
        events = trace["traceEvents"]
        last = next(e for e in reversed(events) if e["ph"] == "X" and e["cat"] == "cpu_op")
        for number, secret in enumerate(PLANTED):
            event = {**last, "ts": last["ts"] + 0.001 * number, "dur": 0.0005}
            text = secret.text
            args = {
                "Call stack": f"{text};torch/nn/x.py(3): f",
                "Concrete Inputs": [text],
                text: text,
                "password": NUMBER + number,
                "gpu_serial": NUMBER + 1_000 + number,
                "credentials": {"a": secret.needles[0]},
                "token": [secret.needles[0]],
                "argv": ["--api-key", secret.needles[0], *secret.words],
            }
            events.append({**event, "cat": "user_annotation", "name": text, "args": args})
            row = {"ph": "M", "name": "process_name", "pid": text, "tid": 0, "ts": event["ts"]}
            events.append({**row, "args": {"name": f"python {text}"}})
        trace["host_name"] = PLANTED[-1].needles[0]
        trace["my metadata"] = [secret.text for secret in PLANTED]
        trace["distributedInfo"] = {"rank": 0, "world_size": 1, "note": texts("ipv4")}
        trace["deviceProperties"] = [{"name": "CPU", "uuid": texts("gpu uuid"), "serial": 123}]
        path.write_bytes(gzip.compress(json.dumps(trace).encode(), 1))


def in_the_diagnosis(folder: Path) -> None:
    """Kept with the run, and newer than its records."""
    path = folder / "diagnosis.json"
    kept = json.loads(path.read_text())
    kept["verdict"]["headline"] += " ".join(secret.text for secret in PLANTED)
    path.write_text(json.dumps(kept))


def in_other_files(folder: Path) -> None:
    everything = "\n".join(secret.text for secret in PLANTED)
    (folder / "train.log").write_text(everything)
    (folder / "node-vm-x").mkdir(exist_ok=True)
    (folder / "node-vm-x" / "crash.txt").write_text(everything)
    (one(folder, "rank-*") / "out.log").write_text(everything)
    names = [n for s in PLANTED for n in s.needles if "/" not in n and ":" not in n]
    header = encode(Header(1, "own", "vm", 1, 1, 1)) + b"\n"
    for name in names:
        (folder / "node-vm-x" / f"{name}.jsonl").write_bytes(header)


PLACES = (
    in_the_manifest,
    in_records,
    in_stacks,
    in_recordings,
    in_roofs,
    in_other_launchers,
    in_metrics,
    in_traces,
    in_the_diagnosis,
    in_other_files,
    in_hosts,
)


def test_there_are_over_200_secrets_of_20_kinds_and_the_search_finds_each_where_it_was_planted(
    planted: Path,
) -> None:
    contents = {
        path.name + str(number): gzip.decompress(path.read_bytes())
        if path.suffix == ".gz"
        else path.read_bytes()
        for number, path in enumerate(p for p in planted.rglob("*") if p.is_file())
    }

    assert len(PLANTED) >= 200
    assert len({secret.kind for secret in PLANTED}) >= 20
    assert len({text.split(" in ")[0] for text in leaks(PLANTED, contents)}) >= 20
    assert len(leaks(PLANTED, contents)) > 1_000


def test_no_secret_is_in_the_bundle(made: Made) -> None:
    contents = everything_in(made.path)
    assert any(name.startswith("run/rank-0-") and name.endswith(".gz") for name in contents)
    contents["the text for the issue"] = made.markdown.encode()
    contents["the preview"] = encode(made.manifest)
    contents["the name of the file"] = made.path.name.encode()
    assert leaks(PLANTED, contents) == []
    assert not [where for where, data in contents.items() if str(NUMBER)[:7].encode() in data]


def test_a_name_that_is_not_private_is_kept_and_hosts_stay_told_apart(made: Made) -> None:
    bundle = open_bundle(made.path)

    manifest = read_manifest(bundle.run_folder)
    hosts = {path.name for path in bundle.run_folder.glob("node-host-*")}
    assert manifest.command[0] == "train.py"
    assert manifest.command[1:3] == ["--steps", "60"]
    assert len(hosts) >= 11
    ranks = {f"run/{path.name}" for path in bundle.run_folder.glob("rank-*")}
    trace = everything_in(made.path)[f"{sorted(ranks)[0]}/trace-1.json.gz"]
    assert b"aten::addmm" in trace


def test_the_figures_of_a_run_full_of_secrets_are_those_of_the_run(
    planted: Path, made: Made
) -> None:
    said = diagnose_run(planted)

    shown = open_bundle(made.path).diagnosis

    assert shown.breakdown == said.breakdown
    assert shown.ranks == said.ranks
    assert shown.run.step_ms == said.run.step_ms
    assert [f.saving for f in shown.findings] == [f.saving for f in said.findings]
    assert shown.verdict.confidence == said.verdict.confidence


def test_what_is_kept_on_request_stays_and_tokens_never_do(planted: Path, tmp_path: Path) -> None:
    # When
    keep = frozenset({"paths", "hosts", "users", "addresses", "devices", "environment"})
    made = make_bundle(planted, tmp_path / "x.boundscope.zip", keep=keep)

    # Then
    contents = everything_in(made.path)
    told = {text.split(" in ")[0] for text in leaks(PLANTED, contents)}
    assert {"host", "path", "user", "ipv4", "gpu uuid", "e-mail"} <= told
    never = {
        "github", "hugging face", "aws key id", "openai", "slack", "jwt", "bearer",
        "option token", "option api key", "password", "random base64", "random hex",
        "password with signs", "password without digits", "password in JSON", "login in an address",
    }  # fmt: skip
    assert told & never == set()
    assert made.manifest.kept == sorted(keep)


def test_the_account_names_kinds_places_and_an_example_without_the_secret(made: Made) -> None:
    redacted = made.manifest.redacted
    assert {item.kind for item in redacted} >= {"secret", "path", "host", "user", "ip", "mac"}
    assert {item.where for item in redacted} >= {
        "arguments", "environment", "stack frames", "places in the code", "gaps", "metrics",
        "trace: names of events", "trace: arguments of events", "trace: metadata", "diagnosis",
    }  # fmt: skip
    assert all(item.count > 0 and item.example for item in redacted)


def test_secrets_in_a_foreign_trace_and_its_file_name_do_not_leave(
    planted: Path, tmp_path: Path
) -> None:
    # Given: as the TensorBoard handler names them, <host>_<pid>.<time>.pt.trace.json.gz
    host: Secret = PLANTED[-1]
    path = tmp_path / f"{host.needles[0]}_77.1700000000000.pt.trace.json.gz"
    shutil.copy(one(planted, "rank-*/trace-1.json.gz"), path)

    # When
    made = make_bundle(path, tmp_path / "x.boundscope.zip")

    # Then
    contents = everything_in(made.path)
    contents["the text for the issue"] = made.markdown.encode()
    assert leaks(PLANTED, contents) == []
    assert "traces/rank-0-0.json.gz" in contents


def test_manifest_fields_not_known_yet_do_not_leave(run: Path, tmp_path: Path) -> None:
    # Given: a manifest of a newer recorder
    folder = tmp_path / "newer"
    shutil.copytree(run, folder)
    manifest: Manifest = read_manifest(folder)
    fields = json.loads(encode(manifest)) | {"novelty": "unheard-of-secret"}
    fields["environment"]["python"]["novelty"] = "unheard-of-secret"
    (folder / "manifest.json").write_text(json.dumps(fields))

    # When
    made = make_bundle(folder, tmp_path / "x.boundscope.zip")

    # Then
    assert not any(b"unheard-of-secret" in data for data in everything_in(made.path).values())
