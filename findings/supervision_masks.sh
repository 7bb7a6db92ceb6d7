#!/usr/bin/env bash
# supervision 0.31.2, `DetectionDataset.as_coco`: a hole makes a mask larger, and a crowd.
#
# One would guess that a mask is one object before and after, and has the pixels that it had. But:
#   - a mask of one part without holes becomes a polygon through the centres of its border pixels.
#     COCO's own reader (pycocotools 2.0.11) takes corners for points between pixels: the last row and
#     column are lost, half of what is two pixels wide. `area` in the file is that of all pixels;
#   - a mask with a hole, or of two parts, becomes run lengths, which are exact, and `iscrowd: 1`,
#     a heap of objects in COCO's sense, which its evaluation ignores.
# supervision's own reader returns all pixels of either, so that a round trip shows nothing.
#
# What dscnet does about it: docs/data.md ("What other tools write"), tests/test_coco_crowds.py; its
# own export: tests/test_contours.py (pycocotools paints the same pixels), tests/test_labels_coco.py.
# Exits with 0 while this is so. Needs Python 3.11 or newer.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-deps --no-compile supervision==0.31.2 \
    pycocotools==2.0.11 opencv-python-headless==4.14.0.94 numpy==2.4.6 scipy==1.17.1 pillow==12.3.0 \
    PyYAML==6.0.3 defusedxml==0.7.1 tqdm==4.70.1 pyDeprecate==0.14.0 requests==2.34.2 urllib3==2.8.0 \
    idna==3.20 certifi==2026.10.19.post1 charset-normalizer==3.5.3 # what it imports, without video
cd "$folder"
echo "supervision 0.31.2: masks lose pixels on their way through COCO, or become crowds, by their shape"
venv/bin/python - <<'PY'
import contextlib
import io
import numpy as np
import supervision as sv
from PIL import Image
from pycocotools.coco import COCO

Image.new("RGB", (40, 40)).save("a.png")
solid, hole, parts, bar = np.zeros((4, 40, 40), bool)
solid[5:35, 5:35] = hole[5:35, 5:35] = parts[5:35, 5:35] = bar[5:35, 5:7] = True
hole[20, 20] = parts[:, 20] = False

def round_trip(mask):
    box = sv.mask_to_xyxy(mask[None]).astype(float)
    dog = sv.Detections(xyxy=box, mask=mask[None], class_id=np.array([0]))
    sv.DetectionDataset(["dog"], ["a.png"], {"a.png": dog}).as_coco(annotations_path="a.json")
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO("a.json")
    again = sv.DetectionDataset.from_coco(".", "a.json", force_masks=True)
    ((_, _, read),) = again
    written = coco.anns[1]
    painted = coco.annToMask(written).sum()
    return written["iscrowd"], int(written["area"]), int(painted), int(read.mask.sum())

shapes = {"square": solid, "with a hole": hole, "in two parts": parts, "two wide": bar}
print("mask, pixels: iscrowd, area in the file, pixels by pycocotools, by supervision")
seen = {name: round_trip(mask) for name, mask in shapes.items()}
for name, result in seen.items():
    print(f"{name}, {shapes[name].sum()}:", *result)
expected = [(0, 900, 841, 900), (1, 899, 899, 899), (1, 870, 870, 870), (0, 60, 29, 60)]
same = list(seen.values()) == expected
raise SystemExit(0 if same else "supervision no longer does what this script describes")
PY
