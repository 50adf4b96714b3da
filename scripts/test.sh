#!/usr/bin/env bash
# All tests, in two parts: those that only compute share the cores, the others run alone.
#   test.sh PYTHON [PYTEST ARGUMENTS]
set -u
python=$1
shift
failed=0
ran=0

run() {
    "$python" -m pytest "$@"
    case $? in
        0) ran=1 ;;
        5) ;; # none of the tests that were asked for is in this part
        *) failed=1 ;;
    esac
}

run -m side_by_side --numprocesses auto --dist loadfile "$@"
run -m "not side_by_side" "$@"
if [ $ran = 0 ]; then failed=1; fi
exit $failed
