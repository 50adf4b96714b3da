"""A bundle from a stranger: whatever is in it, the answer is the run or one sentence."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from boundscope.profiler.bundle import layout
from boundscope.profiler.bundle.limits import check_members
from boundscope.profiler.bundle.reading import derive_bundle, open_bundle, peek, unpack
from boundscope.profiler.bundle.writing import make_bundle
from boundscope.profiler.diagnose import diagnose_path
from boundscope.profiler.errors import BoundscopeError, UnusableData
from boundscope.profiler.library import find_sources, list_entries

from .bundle_material import PEAK_KIB, TRAINING, record

NASTY = "\x1b[2J\x1b]0;x\x07<img src=x onerror=1>|**b** @octocat `x` \u202egnp.exe"
UNSAFE = ("bundle-unsafe",)
FAST_S = 20.0
SMALL_RSS_BYTES = 600 << 20

Members = dict[str, bytes]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    run = record(folder / "run", str(TRAINING), "--steps", "60")
    return make_bundle(run, folder / "good.boundscope.zip").path


@pytest.fixture
def members(good: Path) -> Members:
    with zipfile.ZipFile(good) as file:
        return {name: file.read(name) for name in file.namelist()}


def listed(members: Members, **changes: Any) -> Members:
    """The members with a manifest that lists them as they are."""
    manifest = json.loads(members[layout.MANIFEST])
    manifest["members"] = [
        {"name": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in members.items()
        if name != layout.MANIFEST
    ]
    return {**members, layout.MANIFEST: json.dumps(manifest | changes).encode()}


def written(path: Path, members: Members) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def slug_of(path: Path, analysed: bool = True) -> str:
    """The slug of the one sentence that opening the file ends in; "" where it opens."""
    found: BoundscopeError | None = None
    try:
        bundle = open_bundle(path)
        if analysed:
            derive_bundle(bundle)
    except BoundscopeError as error:
        found = error
    if found is None:
        return ""
    assert "\n" not in found.message
    assert found.hint
    return found.slug


def test_a_good_bundle_opens(good: Path) -> None:
    assert slug_of(good) == ""


@pytest.mark.parametrize(
    "name",
    [
        "../evil.json",
        "run/../../evil.json",
        "/etc/evil",
        "run\\..\\evil",
        "C:/evil",
        "run/rank-0-1/../../../../evil.jsonl",
        "run/rank-0-1/trace-0.json",
        "run/.bashrc",
        "run/node-a/x.py",
        "sitecustomize.py",
        "run/node-" + "a" * 500 + "/x.jsonl",
        "run/node-a/\u202egnp.jsonl",
    ],
)
def test_a_member_of_a_strange_name_is_refused_and_nothing_is_written(
    members: Members, tmp_path: Path, name: str
) -> None:
    # Given
    inside = tmp_path / "deep" / "deeper" / "unpacked"
    inside.mkdir(parents=True)
    path = written(tmp_path / "x.boundscope.zip", listed(members | {name: b"{}"}))

    # When
    with pytest.raises(UnusableData) as caught:
        unpack(path, inside)

    # Then
    assert caught.value.slug == "bundle-unsafe"
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == [path.name]


def test_a_link_is_refused(members: Members, tmp_path: Path) -> None:
    path = tmp_path / "x.boundscope.zip"
    with zipfile.ZipFile(path, "w") as file:
        for name, data in listed(members).items():
            info = zipfile.ZipInfo(name)
            if name == "run/manifest.json":
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
            file.writestr(info, data)

    assert slug_of(path) == "bundle-unsafe"


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("again", ["diagnosis.json", "DIAGNOSIS.JSON", "bundle.json"])
def test_two_members_of_one_name_are_refused(members: Members, tmp_path: Path, again: str) -> None:
    path = written(tmp_path / "x.boundscope.zip", members)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(again, b"{}")

    assert slug_of(path) == "bundle-unsafe"


def test_a_member_that_was_changed_added_or_taken_away_is_noticed(
    members: Members, tmp_path: Path
) -> None:
    steps = next(name for name in members if name.endswith("steps.jsonl"))
    changed = {
        "changed": {**members, steps: members[steps].replace(b"main", b"mein", 1)},
        "diagnosis": {**members, "diagnosis.json": members["diagnosis.json"] + b" "},
        "added": {**members, "run/node-x/gpu.jsonl": b""},
        "taken": {name: data for name, data in members.items() if name != steps},
    }
    for name, others in changed.items():
        path = written(tmp_path / f"{name}.boundscope.zip", others)

        assert slug_of(path) == "bundle-damaged", name


@pytest.mark.parametrize("schema", [0, 2, 99, -1, 10**30, "1", None, [1]])
def test_another_format_is_named(members: Members, tmp_path: Path, schema: Any) -> None:
    path = written(tmp_path / "x.boundscope.zip", listed(members, schema=schema))

    assert slug_of(path) == ("bundle-version" if isinstance(schema, int) else "bundle-damaged")


@pytest.mark.parametrize("bytes_kept", [0, 1, 21, 22, 500, 20_000, -1, -22])
def test_a_file_that_was_cut_short_is_named(good: Path, tmp_path: Path, bytes_kept: int) -> None:
    path = tmp_path / "x.boundscope.zip"
    path.write_bytes(good.read_bytes()[:bytes_kept])

    assert slug_of(path) == "not-a-bundle"


def test_files_that_are_no_bundle_are_named(tmp_path: Path) -> None:
    for name, data in {
        "text": b"hello " * 100,
        "gzip": gzip.compress(b"{}" * 100),
        "empty zip": b"PK\x05\x06" + bytes(18),
        "other zip": written(tmp_path / "o.zip", {"a.txt": b"x"}).read_bytes(),
    }.items():
        path = tmp_path / f"{name}.boundscope.zip"
        path.write_bytes(data)

        assert slug_of(path) in ("not-a-bundle", "bundle-unsafe"), name


# --- bombs ---------------------------------------------------------------------------------------


def within_bounds(path: Path, expected: tuple[str, ...]) -> None:
    """Open the file in a process of its own, and look at its CPU time and memory."""
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from boundscope.profiler.bundle.reading import open_bundle, derive_bundle\n"
        "from boundscope.profiler.errors import BoundscopeError\n"
        "try:\n    derive_bundle(open_bundle(Path(sys.argv[1])))\n    slug = ''\n"
        "except BoundscopeError as error:\n    slug = error.slug\n"
        "own, below = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))\n"
        "cpu = own.ru_utime + own.ru_stime + below.ru_utime + below.ru_stime\n"
        f"{PEAK_KIB}"
        "print(slug, cpu, peak_kib)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    slug, seconds, kib = done.stdout.rstrip("\n").split(" ")
    assert slug in expected
    assert float(seconds) < FAST_S
    assert int(kib) << 10 < SMALL_RSS_BYTES


def test_a_bomb_of_one_member_is_refused(members: Members, tmp_path: Path) -> None:
    bomb = {"run/node-x/gpu.jsonl": bytes(200 << 20)}

    within_bounds(
        written(tmp_path / "x.boundscope.zip", listed(members | bomb)), ("bundle-unsafe",)
    )


def test_a_bomb_that_lies_about_its_size_is_refused(good: Path, tmp_path: Path) -> None:
    # Given: a member of 100 MB whose entry says 10 bytes
    with zipfile.ZipFile(good) as file:
        members = {name: file.read(name) for name in file.namelist()}
    path = written(
        tmp_path / "x.boundscope.zip", listed(members | {"run/node-x/gpu.jsonl": bytes(100 << 20)})
    )
    data = bytearray(path.read_bytes())
    said = (100 << 20).to_bytes(4, "little")
    while said in data:
        data[data.index(said) : data.index(said) + 4] = (10).to_bytes(4, "little")
    path.write_bytes(bytes(data))

    within_bounds(path, ("bundle-damaged", "bundle-unsafe"))


def test_a_bomb_inside_a_trace_is_refused(members: Members, tmp_path: Path) -> None:
    """gzip in gzip's clothes: the ZIP file shows a small member."""
    trace = next(name for name in members if name.endswith("trace-1.json.gz"))
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=9) as file:
        for _ in range(1_200):
            file.write(b" " * (1 << 20))
    bomb = {trace: out.getvalue()}

    within_bounds(
        written(tmp_path / "x.boundscope.zip", listed(members | bomb)), ("bundle-unsafe",)
    )


def test_a_billion_events_are_refused(members: Members, tmp_path: Path) -> None:
    # Given: 400 million events in a megabyte of gzip, were it unpacked
    trace = next(name for name in members if name.endswith("trace-1.json.gz"))
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb") as file:
        file.write(b'{"traceEvents":[')
        for _ in range(400):
            file.write(b'{"ph":"X","ts":1,"dur":1},' * 40_000)
    bomb = {trace: out.getvalue()}

    within_bounds(
        written(tmp_path / "x.boundscope.zip", listed(members | bomb)), ("bundle-unsafe",)
    )


def test_members_that_share_their_bytes_are_refused(good: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(good) as file:
        members = file.infolist()
    members[2].header_offset = members[1].header_offset + 1

    with pytest.raises(UnusableData, match="overlap"):
        check_members(good, members)


def test_a_list_of_a_million_members_is_refused_before_it_is_read(tmp_path: Path) -> None:
    # Given: the end of a ZIP file that lists 50 MB of names
    path = tmp_path / "x.boundscope.zip"
    size = 50 << 20
    end = b"PK\x05\x06" + bytes(4) + b"\xff\xff\xff\xff" + size.to_bytes(4, "little") + bytes(6)
    path.write_bytes(bytes(size) + end)

    within_bounds(path, ("bundle-unsafe",))


# --- contents ------------------------------------------------------------------------------------


def deep(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


@pytest.mark.parametrize("name", [layout.MANIFEST, layout.DIAGNOSIS, "run/manifest.json", "steps"])
def test_deep_nesting_ends_in_a_sentence(members: Members, tmp_path: Path, name: str) -> None:
    if name == "steps":
        name = next(member for member in members if member.endswith("steps.jsonl"))
    for data in (deep(200_000), b'{"schema":1,"x":' + deep(100_000) + b"}"):
        changed = members | {name: data}
        made = changed if name == layout.MANIFEST else listed(changed)
        path = written(tmp_path / "x.boundscope.zip", made)

        assert slug_of(path, analysed=name.startswith("run")) in (
            "bundle-damaged", "broken-manifest", "bundle-unusable", "",
        )  # fmt: skip
        path.unlink()


def test_a_trace_of_deep_nesting_and_huge_texts_is_read_or_named(
    members: Members, tmp_path: Path
) -> None:
    trace = next(name for name in members if name.endswith("trace-1.json.gz"))
    event = b'{"ph":"X","cat":"cpu_op","name":"%s","ts":1,"dur":1,"pid":1,"tid":1,"args":{"a":%s}}'
    for name, value in ((b"a" * (20 << 20), b"1"), (b"a", deep(200_000)), (b"a", b"9" * 100_000)):
        data = b'{"traceEvents":[' + event % (name, value) + b"]}"
        changed = listed(members | {trace: gzip.compress(data, 1)})

        assert slug_of(written(tmp_path / "x.boundscope.zip", changed)) in ("", "bundle-unusable")


def edited(members: Members, edit: Callable[[dict[str, Any]], None]) -> Members:
    diagnosis = json.loads(members[layout.DIAGNOSIS])
    edit(diagnosis)
    return listed(members | {layout.DIAGNOSIS: json.dumps(diagnosis).encode()})


@pytest.mark.parametrize(
    "edit",
    [
        lambda d: d["breakdown"].update(gold=0.5),
        lambda d: d["breakdown"].update(input=7.0),
        lambda d: d["verdict"].update(confidence=-3),
        lambda d: d["run"].update(steps=10**40),
        lambda d: d["verdict"].update(bound="gold"),
        lambda d: d.update(findings=d["findings"][:1] * 300),
    ],
)
def test_a_diagnosis_that_boundscope_never_makes_is_refused(
    members: Members, tmp_path: Path, edit: Callable[[dict[str, Any]], None]
) -> None:
    path = written(tmp_path / "x.boundscope.zip", edited(members, edit))

    assert slug_of(path) == "bundle-damaged"


def nasty(members: Members, text: str = NASTY) -> Members:
    """Every text of the diagnosis and of the run is nasty."""

    def edit(diagnosis: dict[str, Any]) -> None:
        diagnosis["run"].update(id=text, name=text, devices=[text])
        diagnosis["verdict"]["headline"] = text
        for finding in diagnosis["findings"]:
            finding.update(id=text, title=text)
            finding["where"] = [{"file": text, "line": 1, "function": text, "op": text}]
            for evidence in finding["evidence"]:
                evidence["text"] = text
        diagnosis["missing"] = [{"collector": text, "reason": text, "effect": text, "detail": text}]
        diagnosis["warnings"] = [{"slug": text, "text": text}]

    manifest = json.loads(members["run/manifest.json"])
    manifest.update(name=text, command=[text], id=text)
    manifest["environment"]["python"][text] = text
    changed = members | {"run/manifest.json": json.dumps(manifest).encode()}
    return edited(changed, edit)


@pytest.mark.parametrize("options", [[], ["--markdown"]])
def test_nothing_that_a_terminal_obeys_is_printed(
    members: Members, tmp_path: Path, options: list[str]
) -> None:
    # Given
    path = written(tmp_path / "x.boundscope.zip", nasty(members))

    # When
    command = [sys.executable, "-m", "boundscope", "diagnose", str(path), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    # Then
    assert done.returncode == 0, done.stderr
    assert "<img src=x" in done.stdout.replace("\\", "")
    for character in "\x1b\x07\u202e":
        assert character not in done.stdout + done.stderr


def test_no_name_in_a_bundle_is_markup_or_calls_anybody_in_markdown(
    members: Members, tmp_path: Path
) -> None:
    # Given
    lively = f"{NASTY}\n# own heading\n- [x] $y$ https://a.invalid www.b.invalid &#64;o #12 GH-7"
    path = written(tmp_path / "x.boundscope.zip", nasty(members, lively))
    plain = written(tmp_path / "y.boundscope.zip", nasty(members, "plain"))

    # When
    command = [sys.executable, "-m", "boundscope", "diagnose", "--markdown"]
    shown, bare = (
        subprocess.run([*command, str(p)], capture_output=True, text=True, timeout=60, check=True)
        for p in (path, plain)
    )

    # Then
    text = shown.stdout
    assert "own heading" in text
    assert len(text.splitlines()) == len(bare.stdout.splitlines())
    for mark in ("<", ">", "#", "[", "$", "&"):
        assert mark not in text.replace(f"\\{mark}", "")
    assert re.findall(r"@\w|://|(?i:www)\.|#\d|GH-\d", text) == []


def test_a_nasty_file_name_is_harmless_in_an_error(tmp_path: Path) -> None:
    path = tmp_path / "\x1b[2Jx.boundscope.zip"
    path.write_bytes(b"no bundle")

    command = [sys.executable, "-m", "boundscope", "diagnose", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 3
    assert "not-a-bundle" in done.stderr
    assert "\x1b" not in done.stderr


def test_a_run_full_of_nasty_names_can_be_bundled_listed_and_pasted(
    members: Members, tmp_path: Path
) -> None:
    # Given
    path = written(tmp_path / "x.boundscope.zip", nasty(members))
    folder = tmp_path / "again"
    shutil.copytree(open_bundle(path).run_folder, folder)

    # When
    markdown = make_bundle(folder, tmp_path / "y.boundscope.zip").markdown

    # Then
    prose, fenced, rest = markdown.split("```")
    assert "<img" not in (prose + rest).replace("\\<img", "")
    assert "@octocat" not in prose + rest
    assert "<img" in fenced
    assert "\x1b" not in markdown
    entries = list_entries(find_sources([tmp_path]))
    assert {entry.source.kind for entry in entries} == {"run", "bundle"}


def test_opening_leaves_nothing_behind(good: Path, tmp_path: Path) -> None:
    # Given
    own = tmp_path / "temporary"
    own.mkdir()
    command = [sys.executable, "-m", "boundscope", "compare", str(good), str(good)]
    environment = {**os.environ, "TMPDIR": str(own), "HOME": str(tmp_path / "home")}

    # When
    done = subprocess.run(command, capture_output=True, timeout=60, check=False, env=environment)

    # Then
    assert done.returncode == 0
    assert list(own.iterdir()) == []


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_damaged_bundle_is_the_run_or_one_sentence(
    good: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Bytes flipped, dropped or doubled anywhere."""
    whole = bytearray(good.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(whole) - 1))
        kind = data.draw(st.sampled_from(["flip", "drop", "double"]))
        length = data.draw(st.integers(1, 40))
        if kind == "flip":
            whole[at] ^= data.draw(st.integers(1, 255))
        elif kind == "drop":
            del whole[at : at + length]
        else:
            whole[at:at] = whole[at : at + length]
    path = tmp_path_factory.mktemp("fuzz") / "x.boundscope.zip"
    path.write_bytes(bytes(whole))

    slug = ""
    try:
        diagnosis = diagnose_path(path)
    except BoundscopeError as error:
        slug = error.slug
    sentences = ("not-a-bundle", "bundle-unsafe", "bundle-damaged", "bundle-version")
    assert slug in ("", "bundle-unusable", *sentences)
    assert slug or diagnosis == peek(good)[0]
