#!/bin/sh
# Makes the project's own environment, a part at a time; each part leaves a stamp for make.
#   environment.sh torch VENV PYTHON TORCH    the environment, with torch in it
#   environment.sh dashboard|dev VENV         boundscope in place, with that extra
set -eu
part=$1
venv=$2
stamp=$venv/.$part

if [ "$part" = torch ]; then
    python=$3
    torch=$4
    if ! "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))'; then
        echo "$python is not Python 3.10 to 3.13; name one that is: make PYTHON=python3.12 ..." >&2
        exit 1
    fi
    echo "Setting up $venv with $torch; this takes some minutes, once."
    if ! "$python" -m venv "$venv"; then
        echo "$python cannot make environments; on Debian or Ubuntu: apt-get install python3-venv" >&2
        exit 1
    fi
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
        -c constraints.txt "$torch"
else
    echo "Installing boundscope[$part] into $venv."
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
        -c constraints.txt -e ".[$part]"
    # What the demo needs is part of what development needs.
    if [ "$part" = dev ]; then touch "$venv/.dashboard"; fi
fi
touch "$stamp"
