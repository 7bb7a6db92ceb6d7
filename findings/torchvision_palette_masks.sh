#!/usr/bin/env bash
# torchvision 0.29.2: decode_png returns packed bytes for palette masks of up to 16 labels.
#
# Label masks are palette PNGs, as those of PASCAL VOC, and Pillow stores up to 2, 4 or 16 colours in 1, 2
# or 4 bits a pixel. One would guess that decode_png in its default mode, UNCHANGED, returns the label of
# each pixel, or refuses such a file. For 8 bits it returns the labels. Below, it returns an array of the
# right shape and type without an error or a warning, whose rows begin with the packed bytes of the file,
# several labels each; the rest of a row means nothing. Reading the same file as RGB is right. So masks of
# 17 labels can be read and masks of 16 cannot.
# What dscnet does about it: masks are opened by Pillow (src/dscnet/files/label_images.py,
# tests/test_label_images.py), never by torchvision.
# Exits with 0 while this is so. Needs Python 3.11 or newer.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-compile torch==2.15.0 torchvision==0.29.2 numpy==2.4.6 pillow==12.3.0
cd "$folder"
echo "torchvision 0.29.2: decode_png of palette masks, 4 x 16 pixels, written by Pillow 12.3.0"
venv/bin/python - <<'PY'
import io
import sys

import numpy as np
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_png


def written(labels, count):
    """A palette PNG of ``count`` colours, and its bits a pixel."""
    image = Image.fromarray(labels, "P")
    image.putpalette([value for label in range(count) for value in (label, 2 * label, 3 * label)])
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue(), file.getvalue()[24]


def packed(labels, bits):
    """The rows as the PNG standard stores them: the first pixel in the highest bits."""
    each = np.unpackbits(labels[..., None], axis=-1)[..., 8 - bits :]
    return np.packbits(each.reshape(len(labels), -1), axis=1)


as_guessed, as_packed, as_rgb = {}, {}, {}
for count in (2, 4, 16, 17, 21):
    labels = (np.arange(64).reshape(4, 16) % count).astype(np.uint8)
    content, bits = written(labels, count)
    data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    read = decode_png(data)[0].numpy()
    width = 16 * bits // 8
    as_guessed[count] = np.array_equal(read, labels)
    as_packed[count] = np.array_equal(read[:, :width], packed(labels, bits))
    as_rgb[count] = np.array_equal(decode_png(data, ImageReadMode.RGB)[0].numpy(), labels)
    print(
        f"{count:2} labels, {bits} bits: shape {read.shape}, labels {as_guessed[count]!s:5},"
        f" packed {as_packed[count]!s:5}, RGB right {as_rgb[count]}"
    )
small, large = (2, 4, 16), (17, 21)
wrong = all(as_packed[count] and not as_guessed[count] for count in small)
right = all(as_guessed[count] for count in large) and all(as_rgb.values())
sys.exit(0 if wrong and right else 1)
PY
# Seen:
#    2 labels, 1 bits: shape (4, 16), labels False, packed True , RGB right True
#    4 labels, 2 bits: shape (4, 16), labels False, packed True , RGB right True
#   16 labels, 4 bits: shape (4, 16), labels False, packed True , RGB right True
#   17 labels, 8 bits: shape (4, 16), labels True , packed True , RGB right True
#   21 labels, 8 bits: shape (4, 16), labels True , packed True , RGB right True
