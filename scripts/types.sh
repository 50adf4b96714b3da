#!/bin/sh
# Checks the types of the whole package. The type checker can't follow the mapping of folders to
# packages, so it is shown the package as it will be installed: a tree of links.
set -eu
mypy=${1:-mypy}
root=$(pwd)
tree=$root/.cache/types
rm -rf "$tree"
mkdir -p "$tree/boundscope"
for file in profiler/_root/*; do
    case $file in *__pycache__) ;; *) ln -s "$root/$file" "$tree/boundscope/" ;; esac
done
for folder in collectors profiler dashboard sample_traces; do
    ln -s "$root/$folder" "$tree/boundscope/$folder"
done
MYPYPATH=$tree "$mypy" -p boundscope
