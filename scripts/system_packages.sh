#!/bin/sh
# Gets what the tests need of the system and a Python package can't bring: a browser for the
# dashboard's pages, `ip` and `tc` for the link between two network namespaces.
set -eu
missing=
command -v chromium >/dev/null || command -v chromium-browser >/dev/null ||
    command -v google-chrome >/dev/null || missing="$missing chromium"
{ command -v ip && command -v tc; } >/dev/null || missing="$missing iproute2"
if [ -z "$missing" ]; then exit 0; fi

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "Installing$missing."
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086  # a list of packages
    if apt-get -qq update && apt-get -qq install -y --no-install-recommends $missing >/dev/null; then
        exit 0
    fi
fi
echo "Missing:$missing. The tests that need them are skipped and say so; to have them:" >&2
echo "    sudo apt-get install$missing    # or your system's own way" >&2
