#!/bin/sh
# Builds the wheel, installs it into a clean environment, and trains under `boundscope run` in a
# folder that has modules of its own by the names of our folders.
#   check_wheel.sh PYTHON    PYTHON has the `build` package
set -eu
python=$1
torch=${TORCH:-torch==2.13.0}
root=$(pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

# A copy is built, so that the checkout gets no build folder.
mkdir "$work/source"
cp -R pyproject.toml README.md LICENSE profiler collectors dashboard sample_traces "$work/source"
"$python" -m build --wheel --outdir "$work/wheel" "$work/source" >"$work/build.log" 2>&1 ||
    { cat "$work/build.log" >&2; exit 1; }

for file in plotly.js plotly.licences.txt draw.js pick.js; do
    "$python" -m zipfile -l "$work"/wheel/*.whl | grep -q "boundscope/dashboard/static/$file" ||
        { echo "the wheel lacks $file, which draws the dashboard's figures" >&2; exit 1; }
done

"$python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    -c constraints.txt "$torch" "$work"/wheel/*.whl

cp -R "$root/scripts/own_names" "$work/training"
cd "$work/training"
exec_python=$work/venv/bin/python
"$exec_python" check.py "$work/venv/bin/boundscope"
