"""Diagnose groups, embeddings and losses of a trained run; uses masks, for diagnosis only.

python benchmarks/diagnose.py --run runs/x --json benchmarks/results/NAME.json
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dscnet.build import build_eval_transform, build_model, build_objective, build_train_transform
from dscnet.config import Config
from dscnet.context import (
    PixelGroups,
    group_categories,
    group_pixels,
    normalise_cam,
    present_labels,
)
from dscnet.data import PhotoDataset, PhotoSet, make_loader, open_dataset, read_image, read_mask
from dscnet.models import PlainCam
from dscnet.models.cam import FEATURE_MAPS
from dscnet.models.checkpoint import restore
from dscnet.numerics import resize
from dscnet.pipeline.full_images import tag_matrix
from dscnet.run_folder import RunFolder, environment, write_text
from dscnet.types import IGNORE_INDEX

GROUPINGS: dict[str, dict[str, Any]] = {
    "labels, CAM starts": {"starts": "cam"},
    "labels, CAM starts, context rows": {"starts": "cam", "grouping": "context_rows"},
    **{f"{k} groups": {"starts": "kmeans++", "num_groups": k} for k in (2, 4, 8, 12, 16)},
}


def main() -> None:
    """Measure on every n-th training photo with tags and a mask."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--every", type=int, default=4)
    parser.add_argument("--batches", type=int, default=4, help="batches of the gradient measure")
    options = parser.parse_args()
    torch.manual_seed(0)
    folder = RunFolder(options.run)
    config = folder.read_config()
    photos = open_dataset(config.data, config.train_split)
    model = build_model(config, photos.num_classes, pretrained=False)
    restore(model, folder.weights)
    content = {
        "data": Path(config.data).name,
        "variant": config.method.variant,
        "environment": environment(config.seed),
        "groups": groups_and_embeddings(model.eval(), config, photos, options.every),
        "gradients": gradient_sizes(model.train(), config, photos, options.batches),
    }
    write_text(options.json, json.dumps(content, indent=1) + "\n")
    print(json.dumps(content["groups"] | content["gradients"], indent=1))


@torch.no_grad()
def groups_and_embeddings(
    model: PlainCam, config: Config, photos: PhotoSet, every: int
) -> dict[str, Any]:
    """Purity and category accuracy by grouping and feature map, and separation of the embeddings.

    ``purity`` is the fraction of pixels with the majority ground-truth label of their group,
    ``category`` the fraction whose ground-truth label is the category of their group.
    """
    transform = build_eval_transform(model.backbone.mean, model.backbone.std)
    all_tags = tag_matrix(photos)
    counts: dict[str, Tensor] = defaultdict(lambda: torch.zeros(3))
    embeddings, labels, owners = [], [], []
    for index, sample in enumerate(photos.samples):
        if index % every or not sample.tags or sample.mask_path is None:
            continue
        image = transform(read_image(sample.image_path), None)[0][None]
        tags = all_tags[index, None]
        present = present_labels(tags)
        feature_maps = model.backbone(image)
        output = model.one_view(image, tags)
        size = output.final_logits.shape[-2:]
        truth = F.interpolate(read_mask(sample.mask_path)[None, None].float(), size).long()
        cam = normalise_cam(output.final_logits, present, config.label.bg_score)
        for place, features in zip(FEATURE_MAPS, feature_maps, strict=True):
            resized = resize(features, size)
            for name, settings in GROUPINGS.items():
                groups = group_pixels(resized, cam, present, **settings)
                categories = group_categories(cam, groups, present)
                counts[f"{place}, {name}"] += tally(groups, categories, truth, photos.num_labels)
        if output.context is not None:
            groups = output.context.groups
            votes = true_votes(groups, truth, photos.num_labels)[0]
            known = votes.sum(-1) > 0
            embeddings.append(output.context.group_embeddings[0, known])
            labels.append(votes[known].argmax(-1))
            owners.append(torch.full_like(labels[-1], index))
    result: dict[str, Any] = {
        name: {"purity": float(pure / total), "category": float(right / total)}
        for name, (pure, right, total) in counts.items()
    }
    if embeddings:
        result["embeddings"] = contrast_of(*map(torch.cat, (embeddings, labels, owners)))
    return result


def true_votes(groups: PixelGroups, truth: Tensor, num_labels: int) -> Tensor:
    """Pixels of each ground-truth label in each group, ``(B, K, L)``."""
    flat = truth.flatten(1)
    known = flat != IGNORE_INDEX
    votes = F.one_hot(flat.where(known, 0), num_labels).float() * known[..., None]
    return groups.one_hot().mT @ votes


def tally(groups: PixelGroups, categories: Tensor, truth: Tensor, num_labels: int) -> Tensor:
    """Pixels with their group's majority label, with its category, and in total."""
    votes = true_votes(groups, truth, num_labels)
    right = votes.gather(2, categories.clamp_min(0)[..., None])[..., 0] * (categories >= 0)
    return torch.stack([votes.amax(-1).sum(), right.sum(), votes.sum()])


def contrast_of(embeddings: Tensor, labels: Tensor, owners: Tensor) -> dict[str, float]:
    """Mean cosine of groups from different photos, with the same and with different labels."""
    cosines = embeddings @ embeddings.mT
    apart = owners[:, None] != owners
    same = labels[:, None] == labels
    return {
        "same label": float(cosines[apart & same].mean()),
        "other label": float(cosines[apart & ~same].mean()),
    }


def gradient_sizes(
    model: PlainCam, config: Config, photos: PhotoSet, batches: int
) -> dict[str, float]:
    """Mean gradient norm of each weighted term at the features, relative to the tag loss."""
    objective = build_objective(config.method, photos.num_labels).train()
    transform = build_train_transform(config.augment, model.backbone.mean, model.backbone.std)
    loader = make_loader(
        PhotoDataset(photos, transform),
        batch_size=config.train.batch_size,
        seed=config.seed,
        shuffle=True,
    )
    sizes: dict[str, list[float]] = defaultdict(list)
    # One extra batch: the first fills the memory bank.
    for step, batch in zip(range(batches + 1), loader, strict=False):
        output = model(batch.image, batch.tags)
        joined = objective(output, batch, 1.0)
        norms = {}
        for name, term in joined.terms.items():
            if term.requires_grad:
                weighted = joined.weights.get(name, 1.0) * term
                (grad,) = torch.autograd.grad(
                    weighted, output.features, retain_graph=True, allow_unused=True
                )
                norms[name] = 0.0 if grad is None else float(grad.norm())
        if step:
            for name, norm in norms.items():
                sizes[name].append(norm / norms["cls"])
    return {name: sum(values) / len(values) for name, values in sizes.items()}


if __name__ == "__main__":
    main()
