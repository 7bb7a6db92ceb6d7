"""Plug DSCNet into your network: here torchvision's MobileNetV3, which dscnet knows nothing of.

The lines between the two marks are all it takes: one module beside your CAM head, one objective
beside your loss. Run it: it trains a few steps on generated scenes and prints the losses.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import mobilenet_v3_small

from dscnet.context import DualStreamContext
from dscnet.data import EvalTransform, PhotoDataset, make_loader, open_dataset
from dscnet.data.scenes import write_scenes
from dscnet.objective import ContrastObjective

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class YourNetwork(nn.Module):
    """Any network that has features ``(B, D, h, w)`` and a class map ``(B, C + 1, h, w)``."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        layers = mobilenet_v3_small(weights=None).features
        self.early, self.late = layers[:7], layers[7:9]
        self.head = nn.Conv2d(48, num_classes + 1, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features from the middle and the end, and class maps, of normalised photos."""
        middle = self.early(image)
        features = self.late(middle)
        return middle, features, self.head(features)


def main(steps: int = 8, seed: int = 0) -> list[float]:
    """Train a few steps; returns the total loss of each."""
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        write_scenes(Path(folder) / "scenes", num_train=16, num_val=4, seed=seed)
        photos = open_dataset(Path(folder) / "scenes", "train")
        dataset = PhotoDataset(photos, EvalTransform(IMAGENET_MEAN, IMAGENET_STD))
        loader = make_loader(
            dataset, batch_size=8, seed=seed, shuffle=True, num_workers=0, drop_last=True
        )
        batches = [batch for _ in range(steps // 2) for batch in loader]

    losses = []
    # --8<-- DSCNet begins
    network = YourNetwork(photos.num_classes)
    context = DualStreamContext(48, photos.num_labels, semantic=True, fuse=True)
    contrast = ContrastObjective(photos.num_labels, pgcl_weight=0.3, sgcl_weight=0.1, warmup=0.25)
    optimizer = torch.optim.SGD([*network.parameters(), *context.parameters()], lr=0.05)
    for step, batch in enumerate(batches):
        middle, features, cam_logits = network(batch.image)
        streams = context(features, cam_logits, batch.tags, guide=middle)
        progress = step / len(batches)
        terms = contrast([streams], [streams.cam_logits], batch.tags, progress)
        # Tags by the refined map: by its mean at first, by its groups from half of training on.
        mean = streams.cam_logits[:, 1:].mean((2, 3))
        scores = torch.lerp(mean, streams.tag_logits, min(2 * progress, 1.0))
        loss = F.multilabel_soft_margin_loss(scores, batch.tags) + terms.total
        # And a little by the mean of the plain one.
        loss += 0.4 * F.multilabel_soft_margin_loss(cam_logits[:, 1:].mean((2, 3)), batch.tags)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    # --8<-- DSCNet ends
    return losses


if __name__ == "__main__":
    for step, value in enumerate(main()):
        print(f"step {step}: loss {value:.3f}")
