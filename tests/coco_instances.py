"""Parts of a small instances file of COCO's form."""

from __future__ import annotations

HEIGHT, WIDTH = 5, 7
CATEGORIES = [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}]
PERSON, BRUSH = 1, 2  # labels


def box(left, top, right, bottom):
    """The outline of pixels left..right-1, top..bottom-1."""
    return [left, top, right, top, right, bottom, left, bottom]


def runs(mask):
    """Uncompressed run lengths by COCO's rule: down the columns, beginning with zeros."""
    counts, value = [0], 0
    for column in range(mask.shape[1]):
        for row in range(mask.shape[0]):
            if mask[row, column] != value:
                value = mask[row, column]
                counts.append(0)
            counts[-1] += 1
    return {"size": list(mask.shape), "counts": counts}


def annotation(number, category, segmentation, *, image=1, crowd=0):
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "segmentation": segmentation,
        "iscrowd": crowd,
        "bbox": [0, 0, 1, 1],
    }
