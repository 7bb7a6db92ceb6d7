#!/usr/bin/env bash
# Datumaro 1.13.12 exports every mask drawn in pixels as a crowd.
#
# COCO's `iscrowd: 1` means a heap of objects that nobody told apart, which evaluation ignores. One
# would guess that Datumaro sets it for annotations that say so. It sets it by how an object is
# stored: a Mask without the attribute `is_crowd` is written with 1, the same object as a Polygon
# with 0, in the mode `coco_instances` that is meant for single objects.
# COCO's own evaluation (pycocotools 2.0.11) then drops ordinary objects from the ground truth: a
# detector that misses half of them reaches an AP of 1.0.
# What dscnet does about it: docs/data.md ("What other tools write"), tests/test_coco_crowds.py.
# Exits with 0 while this is so. Needs Python 3.11 or newer.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-deps --no-compile datumaro==1.13.12 pycocotools==2.0.11 \
    numpy==2.4.6 pillow==12.3.0 opencv-python-headless==4.14.0.94 pandas==2.3.3 shapely==2.2.0 \
    lxml==6.1.3 attrs==26.1.0 defusedxml==0.7.1 imagesize==2.0.1 json-stream==2.5.1 orjson==3.13.0 \
    json-stream-rs-tokenizer==0.5.4 tqdm==4.70.1 typing_extensions==4.16.0 PyYAML==6.0.4 \
    python-dateutil==4.0.0 pytz==2026.6 tzdata==2026.6 # what it imports, without its pyarrow
cd "$folder"
echo "Datumaro 1.13.12: the same object is a crowd if drawn in pixels, and COCO's AP leaves it out"
venv/bin/python - <<'PY'
import contextlib
import io
import json
import numpy as np
from datumaro import Dataset, DatasetItem
from datumaro.components.annotation import Mask, Polygon
from datumaro.components.media import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

square = np.zeros((40, 40), bool)
square[5:35, 5:35] = True
outline = Polygon([5, 5, 35, 5, 35, 35, 5, 35], label=0)  # the same pixels
photo = dict(subset="train", media=Image.from_numpy(np.zeros((40, 40, 3), np.uint8)))
shapes = {"pixels": Mask(square, label=0), "outline": outline}
items = [DatasetItem(name, annotations=[shape], **photo) for name, shape in shapes.items()]
Dataset.from_iterable(items, categories=["dog"]).export("out", "coco_instances")
path = "out/annotations/instances_train.json"
first, second = json.load(open(path))["annotations"]
for way, dog in zip(shapes, (first, second)):
    print(f"one dog, drawn as {way}: iscrowd", dog["iscrowd"], "area", dog["area"])

def precision(flag):  # of a detector that finds the second dog alone
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(path)
        truth.anns[first["id"]]["iscrowd"] = flag
        found = second | {"segmentation": truth.annToRLE(second), "score": 1.0}
        evaluation = COCOeval(truth, truth.loadRes([found]), "segm")
        evaluation.evaluate(), evaluation.accumulate(), evaluation.summarize()
    return round(float(evaluation.stats[0]), 2)

scores = precision(first["iscrowd"]), precision(0)
print("AP of finding the second alone: %s as written, %s with iscrowd 0" % scores)
same = (first["iscrowd"], second["iscrowd"], scores) == (1, 0, (1.0, 0.5))
raise SystemExit(0 if same else "Datumaro no longer does what this script describes")
PY
