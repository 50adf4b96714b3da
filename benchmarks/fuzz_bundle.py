"""Damage bundles at random and open them: the answer must be a diagnosis or an error with a slug.

    python benchmarks/fuzz_bundle.py [BUNDLE…] [--seconds 60] [--seed 0] [--keep FOLDER]

Without bundles two are made: of a small trace, and of a small run that has something of everything.
A third of the inputs have damaged bytes; of the others the members are damaged, or have odd values
in their fields, and are listed again with the right checksums, so that the damage gets past them.
An input lies in FOLDER before it is opened, and stays there if it ends in any other exception,
takes too long or hangs; then the exit code is 1.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import random
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from fuzz_trace import damaged, distorted, small_trace
from fuzzing import distorted_json, parsed, until, watched
from small_run import write_run

from boundscope.profiler.bundle import layout
from boundscope.profiler.bundle.reading import Bundle, derive_bundle, peek, run_of_bundle, unpack
from boundscope.profiler.bundle.writing import make_bundle
from boundscope.profiler.diagnose import diagnose_features
from boundscope.profiler.errors import BoundscopeError
from boundscope.profiler.report.markdown import to_markdown

SLOW_S = 20.0
NAMES = ("../x", "run/../x", "/x", "run/x.py", "run/node-a/gpu.jsonl", "bundle.json", "a" * 300)


def main() -> int:
    options = parsed((__doc__ or "").splitlines()[0], inputs="bundles")
    rng = random.Random(options.seed)
    tried = failed = opened = 0
    options.keep.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["XDG_CACHE_HOME"] = temporary
        sources = [path.read_bytes() for path in options.bundles] or small(Path(temporary))
        for tried in until(options.seconds):
            data = rng.choice(sources)
            data = damaged(data, rng) if rng.random() < 0.33 else resealed(data, rng)
            path = options.keep / f"{options.seed}-{tried}.boundscope.zip"
            path.write_bytes(data)
            with watched():
                fault, good = fault_of(path)
            opened += good
            failed += bool(fault)
            if fault:
                print(f"{path}: {fault}")
            else:
                path.unlink()
    print(
        f"{tried} damaged bundles opened, {opened} of them usable, {failed} faults "
        f"(seed {options.seed})"
    )
    return 1 if failed else 0


def small(folder: Path) -> list[bytes]:
    """A bundle of a trace, and one of a run."""
    trace = folder / "small.json"
    trace.write_bytes(small_trace())
    made = [
        make_bundle(path, folder / f"{path.stem}.boundscope.zip").path
        for path in (trace, write_run(folder / "run"))
    ]
    return [path.read_bytes() for path in made]


def resealed(data: bytes, rng: random.Random) -> bytes:
    """Damage one member, or add one, and list all with their right sizes and checksums."""
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        members = {name: file.read(name) for name in file.namelist()}
    chosen = rng.choice(sorted(members))
    old = members[chosen]
    manifest = json.loads(members[layout.MANIFEST])
    added = ""
    if rng.random() < 0.1:
        added = rng.choice(NAMES)
        members[added] = old
    else:
        members[chosen] = changed(chosen, old, rng)
    if layout.MANIFEST not in (chosen, added):
        manifest["members"] = [
            {"name": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in members.items()
            if name != layout.MANIFEST
        ]
        members[layout.MANIFEST] = json.dumps(manifest).encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return out.getvalue()


def changed(name: str, data: bytes, rng: random.Random) -> bytes:
    """Damage of the bytes, or odd values in what they say."""
    odd = rng.random() < 0.6
    if name.endswith(".gz") and rng.random() < 0.8:
        inner = gzip.decompress(data)
        return gzip.compress((distorted if odd else damaged)(inner, rng), 1)
    return distorted_json(data, rng) if odd and not name.endswith(".gz") else damaged(data, rng)


def fault_of(path: Path) -> tuple[str, bool]:
    """Open a bundle and look at all of it; return what was wrong, and whether it was usable."""
    begin = time.process_time()
    good = False
    try:
        peek(path)
    except BoundscopeError:
        pass
    except Exception as error:  # noqa: BLE001 - this is what is looked for
        return f"{type(error).__name__}: {error} (peek)", False
    try:
        with tempfile.TemporaryDirectory() as folder:
            look_at(unpack(path, Path(folder)))
        good = True
    except BoundscopeError as error:
        if not error.slug or not error.message:
            return "an error without a slug or a sentence", False
    except Exception as error:  # noqa: BLE001 - this is what is looked for
        return f"{type(error).__name__}: {error}", False
    slow = time.process_time() - begin > SLOW_S
    return ("slow" if slow else ""), good


def look_at(bundle: Bundle) -> None:
    to_markdown(bundle.diagnosis)
    diagnose_features(derive_bundle(bundle))
    run = run_of_bundle(bundle)
    assert run.metrics is not None
    assert run.stacks is not None
    assert run.gaps is not None
    assert run.processes is not None


if __name__ == "__main__":
    sys.exit(main())
