#!/usr/bin/env bash
# Everything that only a GPU can show, in less than ten minutes and without a network:
#
#     bash scripts/gpu_check.sh OUT.json [PYTHON]
#
# the tests of the kernels on the device, compute-sanitizer on a small step where it is installed,
# gradients against the complex step, a fit on both devices, and the table of docs/gpu.md.
# fdforce, numba-cuda and pytest must be importable. Goes on after a failure and exits with 1.
set -uo pipefail

out=$(realpath -m -- "${1:?usage: bash scripts/gpu_check.sh OUT.json [PYTHON]}")
python=${2:-python3}
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
small=$(mktemp)
trap 'rm -f "$small"' EXIT
cd "$root" || exit 1
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
unset NUMBA_ENABLE_CUDASIM
failed=0

step() {
    local name=$1 limit=$2 start=$SECONDS
    shift 2
    printf '\n=== %s\n' "$name"
    if timeout "$limit" "$@"; then
        printf '=== %s: ok, %d s\n' "$name" $((SECONDS - start))
    else
        printf '=== %s: FAILED, %d s\n' "$name" $((SECONDS - start))
        failed=1
    fi
}

step devices 20 "$python" -m fdforce info --devices
step accuracy-training-speed 280 "$python" scripts/measure_gpu.py "$out"
step tests 150 "$python" -m pytest -q tests/cuda --deselect tests/cuda/test_ptx.py
if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck synccheck; do
        step "$tool" 45 compute-sanitizer --tool "$tool" --error-exitcode 1 \
            "$python" scripts/measure_gpu.py "$small" --small --part accuracy
    done
else
    echo "compute-sanitizer is not installed: memory and races not checked"
fi
exit $failed
