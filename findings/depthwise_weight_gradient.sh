#!/usr/bin/env bash
# PyTorch 2.15.0 on CPUs: the weight gradient of a depthwise convolution is fast up to three columns.
#
# One would guess that the gradient of a 5x5 kernel takes a little longer than that of a 5x3 kernel,
# as there are 25 products a pixel and not 15. On x86 it takes several times longer: oneDNN has a
# depthwise kernel for widths up to 3, and falls back to a blocked one, for dense convolutions, beyond.
# The height does not matter, unless it is more than that of the image. Computing the middle three
# columns and the outer ones apart gives the same numbers (a relative difference below 1e-5) sooner.
# In a training step of EfficientNet-lite0 on SEAM this was the most expensive operation.
# What dscnet does about it: src/dscnet/models/depthwise.py, tests/test_depthwise.py.
# Exits with 0 while this is so. Needs Python 3.11 or newer and an x86 processor with AVX2.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-compile torch==2.15.0 numpy==2.4.6
cd "$folder"
echo "PyTorch 2.15.0: weight gradient of depthwise kernels on 32 x 1152 x 7 x 7, one thread, channels last"
venv/bin/python - <<'PY'
import sys
import time

import torch

torch.set_num_threads(1)
torch.manual_seed(0)


def last(*shape):
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


def gradient(image, output, kernel, padding):
    weight = torch.zeros(1152, 1, *kernel)
    options = ([1, 1], list(padding), [1, 1], False, [0, 0], 1152, [False, True, False])
    return torch.ops.aten.convolution_backward(output, image, weight, None, *options)[1]


image, output = last(32, 1152, 7, 7), last(32, 1152, 7, 7)


def by_columns():
    first = gradient(image[..., :-2], output[..., 2:], (5, 1), (2, 0))
    middle = gradient(image, output, (5, 3), (2, 1))
    final = gradient(image[..., 2:], output[..., :-2], (5, 1), (2, 0))
    return torch.cat([first, middle, final], 3)


ways = {
    "5x3": lambda: gradient(image, output, (5, 3), (2, 1)),
    "3x5": lambda: gradient(image, output, (3, 5), (1, 2)),
    "5x5": lambda: gradient(image, output, (5, 5), (2, 2)),
    "5x5 by columns": by_columns,
}
seconds = {name: [] for name in ways}
for turn in range(9):
    for name, way in ways.items():
        started = time.perf_counter()
        way()
        seconds[name].append(time.perf_counter() - started)
best = {name: min(times[1:]) for name, times in seconds.items()}
for name, value in best.items():
    print(f"{name:15} {1000 * value:6.1f} ms")
whole, parts = ways["5x5"](), by_columns()
error = float((whole - parts).abs().max() / whole.abs().max())
print(f"largest relative difference of the two ways: {error:.1e}")
# Products a pixel: 15, 15, 25.
slow = best["3x5"] > 2 * best["5x3"] and best["5x5"] > 2 * 25 / 15 * best["5x3"]
sys.exit(0 if slow and best["5x5 by columns"] < best["5x5"] and error < 1e-5 else 1)
PY
# Seen on an AMD EPYC with AVX-512, beside other work:
#   5x3                2.3 ms
#   3x5               16.1 ms
#   5x5               26.3 ms
#   5x5 by columns     6.7 ms
#   largest relative difference of the two ways: 1.4e-06
