"""Damage bundles at random and open them: the answer must be a diagnosis or an error with a slug.

    python benchmarks/fuzz_bundle.py [BUNDLE…] [--seconds 60] [--seed 0] [--keep FOLDER]

Without bundles one is made of a small trace. Half of the inputs have damaged bytes; of the other
half the members are damaged and listed again with the right checksums, so that the damage gets
past them. An input that ends in any other exception or takes too long is kept in FOLDER, and the
exit code is 1.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import importlib.util
import io
import json
import random
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from types import ModuleType

from boundscope.profiler.bundle import layout
from boundscope.profiler.bundle.reading import Bundle, derive_bundle, run_of_bundle, unpack
from boundscope.profiler.bundle.writing import make_bundle
from boundscope.profiler.diagnose import diagnose_features
from boundscope.profiler.errors import BoundscopeError

SLOW_S = 20.0
NAMES = ("../x", "run/../x", "/x", "run/x.py", "run/node-a/gpu.jsonl", "bundle.json", "a" * 300)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundles", nargs="*", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"))
    options = parser.parse_args()
    rng = random.Random(options.seed)
    damaged = traces().damaged
    tried = failed = opened = 0
    with tempfile.TemporaryDirectory() as temporary:
        sources = [path.read_bytes() for path in options.bundles] or [small(Path(temporary))]
        end = time.monotonic() + options.seconds
        while time.monotonic() < end:
            data = rng.choice(sources)
            data = damaged(data, rng) if rng.random() < 0.5 else resealed(data, rng, damaged)
            path = Path(temporary) / "input.boundscope.zip"
            path.write_bytes(data)
            tried += 1
            fault, good = fault_of(path)
            opened += good
            if fault:
                failed += 1
                options.keep.mkdir(exist_ok=True)
                kept = options.keep / f"{options.seed}-{tried}.boundscope.zip"
                kept.write_bytes(data)
                print(f"{kept}: {fault}")
    print(f"{tried} damaged bundles opened, {opened} of them usable, {failed} faults")
    return 1 if failed else 0


def traces() -> ModuleType:
    """The fuzzer of traces: its damage is ours."""
    path = Path(__file__).with_name("fuzz_trace.py")
    spec = importlib.util.spec_from_file_location("fuzz_trace", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def small(folder: Path) -> bytes:
    path = folder / "small.json"
    path.write_bytes(traces().small_trace())
    return make_bundle(path, folder / "small.boundscope.zip").path.read_bytes()


def resealed(data: bytes, rng: random.Random, damaged: object) -> bytes:
    """Damage one member, or add one, and list all with their right sizes and checksums."""
    assert callable(damaged)
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        members = {name: file.read(name) for name in file.namelist()}
    chosen = rng.choice(sorted(members))
    old = members[chosen]
    manifest = json.loads(members[layout.MANIFEST])
    added = ""
    if rng.random() < 0.1:
        added = rng.choice(NAMES)
        members[added] = old
    elif chosen.endswith(".gz") and rng.random() < 0.7:
        members[chosen] = gzip.compress(damaged(gzip.decompress(old), rng), 1)
    else:
        members[chosen] = damaged(old, rng)
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


def fault_of(path: Path) -> tuple[str, bool]:
    """Open a bundle and look at all of it; return what was wrong, and whether it was usable."""
    begin = time.perf_counter()
    good = False
    try:
        with tempfile.TemporaryDirectory() as folder:
            look_at(unpack(path, Path(folder)))
        good = True
    except BoundscopeError as error:
        if not error.slug or not error.message:
            return "an error without a slug or a sentence", False
    except Exception as error:  # noqa: BLE001 - this is what is looked for
        return f"{type(error).__name__}: {error}", False
    slow = time.perf_counter() - begin > SLOW_S
    return ("slow" if slow else ""), good


def look_at(bundle: Bundle) -> None:
    diagnose_features(derive_bundle(bundle))
    run = run_of_bundle(bundle)
    assert run.metrics is not None
    assert run.stacks is not None
    assert run.gaps is not None


if __name__ == "__main__":
    sys.exit(main())
