#!/usr/bin/env bash
# PyTorch 2.15.0 on CPUs: the softmax of rows takes ten times longer for 15 columns than for 16.
#
# Segmentation makes probabilities of a few labels for each of many pixels: rows of 2 to 21 columns in a
# dense CRF, in random walks and in class similarities. One would guess that the time grows with the
# columns. But the softmax over the last dimension is vectorised over the columns of a row, and a row that
# is shorter than a vector takes a slow way. The same numbers with the labels in the first dimension are
# vectorised over the pixels, and take less time for few labels than a row-wise softmax for any number. A
# softmax spelled out (maximum, exp, sum, division) is several times faster too.
# What dscnet does about it: `softmax_of_rows` (src/dscnet/numerics.py, tests/test_numerics.py).
# Exits with 0 while this is so. Needs Python 3.11 or newer and an x86 processor with AVX2 or AVX-512.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-compile torch==2.15.0 numpy==2.4.6
cd "$folder"
echo "PyTorch 2.15.0: softmax of 200,000 pixels, float32, one thread, milliseconds"
venv/bin/python - <<'PY'
import sys
import time

import torch

torch.set_num_threads(1)
torch.manual_seed(0)
COLUMNS = (2, 4, 8, 15, 16, 21, 32)


def fastest(work):
    """Milliseconds of the fastest of seven calls."""
    seconds = []
    for _ in range(7):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return 1000 * min(seconds)


last, first = {}, {}
error = 0.0
for columns in COLUMNS:
    rows = torch.randn(200_000, columns)
    turned = rows.T.contiguous()
    last[columns] = fastest(lambda: rows.softmax(1))
    first[columns] = fastest(lambda: turned.softmax(0))
    error = max(error, float((rows.softmax(1) - turned.softmax(0).T).abs().max()))
    print(f"{columns:3} labels: last dimension {last[columns]:7.2f}, first {first[columns]:6.2f}")
print(f"largest difference: {error:.1e}")
# With AVX2 a vector is 8 floats, with AVX-512 16: one of the steps is steep.
steep = max(last[4] / last[8], last[15] / last[16]) > 3
sys.exit(0 if steep and last[4] > 5 * first[4] and error < 1e-6 else 1)
PY
