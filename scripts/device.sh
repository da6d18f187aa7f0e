#!/bin/sh
# What is measured and tested on a machine with an accelerator, in one go:  sh scripts/device.sh [FOLDER]
#
# Writes into FOLDER (default build/device): device.json and device-float32.json (benchmarks/device.py), tests.xml (the tests
# marked gpu) and a log of each. A part that fails does not stop the others; the exit code is then 1. PYTHON (default python3)
# names an interpreter with torch, NumPy, Lightning and pytest; on a machine without an accelerator the tests skip themselves
# and SMALL=1 keeps the benchmarks short.

cd "$(dirname "$0")/.." || exit 1
OUT=${1:-build/device}
PYTHON=${PYTHON:-python3}
export PYTHONPATH="src${PYTHONPATH:+:$PYTHONPATH}"
mkdir -p "$OUT" || exit 1
failed=0

part() {  # part NAME COMMAND...
    name=$1
    shift
    echo "== $name"
    if "$@" > "$OUT/$name.log" 2>&1; then
        tail -n 40 "$OUT/$name.log"
    else
        tail -n 40 "$OUT/$name.log"
        echo "failed: $name. See $OUT/$name.log" >&2
        failed=1
    fi
}

short=
[ -z "$SMALL" ] || short="--model small --batch 4 --rounds 2 --product 64 --methods Joint --modes="

# shellcheck disable=SC2086  (several words, or none)
part device "$PYTHON" benchmarks/device.py $short --out "$OUT/device.json"
# shellcheck disable=SC2086
part device-float32 "$PYTHON" benchmarks/device.py $short --precision float32 --modes= --out "$OUT/device-float32.json"
part tests "$PYTHON" -m pytest -o addopts="--import-mode=importlib -ra" -m gpu -q tests/features/test_gpu.py \
    --junitxml="$OUT/tests.xml"
exit $failed
