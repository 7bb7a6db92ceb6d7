"""Time a training step of SEAM and of DSCNet against the same formulas, written as they are read.

python benchmarks/naive_twin.py --json benchmarks/results/naive_twin.json

The twin has the weights of our network, and gives the same losses. It computes every formula in the
order of the papers, as a first implementation would: timm's own convolutions, each followed by its
frozen batch normalisation; CAMs of all classes enlarged to the photo before they are pooled and
compared (SEAM); a loop over photos for k-means, over groups for their means, and over nodes for the
graph and the contrast. Both sides take turns, forward, losses and backward, without an optimiser.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from naive_formulas import EPS, Losses, View, kmeans, means, pearson_points, resize, seam_losses
from torch import Tensor, nn
from torch.nn import functional as F

from dscnet.build import build_model, build_objective
from dscnet.config import Config
from dscnet.config.recipes import find_recipe
from dscnet.config.settings import from_dict, replace_settings
from dscnet.models.backbones import feature_net, freeze_backbone, freeze_batch_norm
from dscnet.run_folder import environment, write_text
from dscnet.tables.step_time import random_batch
from dscnet.types import Batch

RESTARTS = 3


class NaiveTwin(nn.Module):
    """SEAM's and DSCNet's training step, formula by formula.

    Args:
        model: Our network; its modules with weights are shared, its backbone is copied.
        config: Its settings: SEAM on a timm backbone, ``baseline``, ``M1`` or ``M4``, the others of
            ``method`` as far as they have the default's kind.
    """

    def __init__(self, model: Any, config: Config) -> None:
        super().__init__()
        method = config.method
        usual = (method.contrast, method.kmeans_init, method.head, method.group_margin)
        if config.model.name != "seam" or method.variant not in ("baseline", "M1", "M4"):
            raise ValueError("the twin is of seam: baseline, M1 or M4")
        if usual != ("groups", "kmeans++", "shared", 0.0) or method.num_groups is None:
            raise ValueError("the twin has the default's kinds of contrast, k-means and head only")
        self.net, _ = feature_net(config.model.backbone, config.model.output_stride)
        self.net.load_state_dict(model.backbone.net.state_dict())
        freeze_backbone(self.net, config.model.frozen_stages)
        self.model, self.config, self.method = model, config, method
        self.memory: dict[int, list[Tensor]] = {}

    def train(self, mode: bool = True) -> NaiveTwin:
        """Set the mode; batch normalisation is frozen."""
        super().train(mode)
        freeze_batch_norm(self.net)
        return self

    def forward(self, batch: Batch) -> Losses:
        """The named losses of a batch, unweighted, and their weighted sum ``total``."""
        image, tags = batch.image, batch.tags
        scale = self.config.model.view_scale
        size = (int(image.shape[2] * scale), int(image.shape[3] * scale))
        views = [self.view(image, tags), self.view(resize(image, size), tags)]
        losses = self.tag_losses(views, tags) | seam_losses(*views, tags)
        if self.method.pgcl:
            losses["pgcl"] = self.group_contrast(views, tags)
        if self.method.sgcl:
            terms = [self.semantic_contrast(view, tags) for view in views]
            losses["sgcl"] = torch.stack(terms).mean()
        method = self.method
        weights = {"cls_plain": method.plain_weight, "pgcl": method.pgcl_weight}
        weights["sgcl"] = method.sgcl_weight
        losses["total"] = torch.stack([weights.get(k, 1.0) * v for k, v in losses.items()]).sum()
        return losses

    def view(self, image: Tensor, tags: Tensor) -> View:
        """CAM, Eq. (1); groups, Eq. (4), (5); graph, Eq. (8); fusion, Eq. (10), (11); PCM."""
        model, context = self.model, self.model.context
        low, middle, high = self.net(image)[-3:]
        plain = final = F.conv2d(model.dropout(high), model.classifier.weight)
        size = (image.shape[2], image.shape[3])
        if context is None:
            refined = self.pixel_correlation(plain, image, low, middle)
            return View(plain, plain, refined, size, [], [], [])
        height, width = high.shape[2:]
        with torch.no_grad():
            compared = resize((low, middle, high)[model.group_by], (height, width)).flatten(2)
            pixels = [pearson_points(photo.T) for photo in compared]
            ids = self.cluster(pixels)
        embeddings = F.conv2d(high, context.projection.weight).flatten(2)
        grouped = [
            F.normalize(means(F.normalize(e.T, dim=1), i, self.method.num_groups), dim=1)
            for e, i in zip(embeddings, ids, strict=True)
        ]
        logits, attention = [], []
        if context.graph is not None:
            nodes, logits = self.graph(high, ids)
            attention = [self.attention(z, i) for z, i in zip(pixels, ids, strict=True)]
            enriched = [
                (a @ context.expand(n)).T.reshape(-1, height, width)
                for a, n in zip(attention, nodes, strict=True)
            ]
            added = F.conv2d(context.dropout(torch.stack(enriched)), context.classifier.weight)
            final = plain + added
        refined = self.pixel_correlation(final, image, low, middle)
        if attention and model.smooth:
            refined = self.smoothed(refined, attention, ids)
        return View(plain, final, refined, size, ids, grouped, logits)

    def pixel_correlation(self, cam: Tensor, image: Tensor, low: Tensor, middle: Tensor) -> Tensor:
        """SEAM's pixel correlation module, with the affinity scaled column by column."""
        module, size = self.model.pixel_correlation, (cam.shape[2], cam.shape[3])
        with torch.no_grad():
            maps = F.relu(cam)
            peaks = maps.flatten(2).max(2).values[..., None, None]
            maps = F.relu(maps - EPS) / (peaks + EPS)
            foreground = maps[:, 1:]
            strongest = foreground.max(1, keepdim=True).values
            foreground = torch.where(foreground < strongest, 0.0, foreground)
            maps = torch.cat([1 - strongest, foreground], 1)
        shallow = F.relu(module.squeeze_low(resize(low.detach(), size)))
        deep = F.relu(module.squeeze_mid(resize(middle.detach(), size)))
        features = module.mix(torch.cat([resize(image, size), shallow, deep], 1)).flatten(2)
        features = features / (torch.norm(features, dim=1, keepdim=True) + EPS)
        affinity = F.relu(torch.bmm(features.transpose(1, 2), features))
        affinity = affinity / (affinity.sum(1, keepdim=True) + EPS)
        return torch.bmm(maps.flatten(2), affinity).view_as(cam)

    def cluster(self, photos: Sequence[Tensor]) -> list[Tensor]:
        """K-means of the pixels of each photo, from the same draws as our batched one."""
        draws = [torch.rand(len(photos), RESTARTS, 1) for _ in range(self.method.num_groups or 0)]
        return [
            kmeans(points, torch.stack([draw[index, :, 0] for draw in draws], 1))
            for index, points in enumerate(photos)
        ]

    def graph(self, features: Tensor, ids: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Eq. (8): nodes after the graph convolution and their similarity to the categories."""
        graph, groups = self.model.context.graph, self.method.num_groups
        photos = [means(f.T, i, groups) for f, i in zip(features.flatten(2), ids, strict=True)]
        inputs = [graph.embed(photo) for photo in photos]
        nodes = torch.cat([*inputs, graph.prototypes])
        exists = [i.eq(group).any() for i in ids for group in range(groups)]
        exists += [torch.tensor(True)] * len(graph.prototypes)
        hidden = []
        for index, node in enumerate(nodes):
            edges = F.relu(F.cosine_similarity(node[None], nodes)) * torch.stack(exists)
            edges = torch.where(torch.arange(len(nodes)) == index, 1.0, edges * exists[index])
            message = graph.convolve((edges / edges.sum()) @ nodes)
            hidden.append((F.relu(message) + node) * exists[index])
        categories = torch.stack(hidden[-len(graph.prototypes) :])
        own = torch.stack(hidden[: len(ids) * groups]).view(len(ids), groups, -1)
        logits = F.cosine_similarity(own[:, :, None], categories, dim=-1) / self.method.temperature
        return list(own), list(logits)

    def attention(self, pixels: Tensor, ids: Tensor) -> Tensor:
        """norm(A) of Eq. (10), pixel to group."""
        centres = means(pixels, ids, self.method.num_groups)
        columns = []
        for group, centre in enumerate(centres):
            if (ids == group).any():
                columns.append(pixels @ pearson_points(centre[None])[0] / self.method.temperature)
            else:
                columns.append(torch.full_like(pixels[:, 0], -torch.inf))
        return torch.stack(columns, 1).softmax(1)

    def smoothed(self, maps: Tensor, attention: list[Tensor], ids: list[Tensor]) -> Tensor:
        """Each pixel's refined scores blended with those of its groups."""
        share, result = self.model.smooth, []
        for photo, a, i in zip(maps, attention, ids, strict=True):
            of_groups = means(photo.flatten(1).T, i, self.method.num_groups)
            result.append((1 - share) * photo + share * (a @ of_groups).T.reshape(photo.shape))
        return torch.stack(result)

    def tag_losses(self, views: Sequence[View], tags: Tensor) -> Losses:
        """Multi-label soft margin loss of enlarged CAMs, and of CAMs pooled over the groups."""
        plain = [
            F.multilabel_soft_margin_loss(resize(v.plain[:, 1:], v.size).mean((2, 3)), tags)
            for v in views
        ]
        if not self.method.pgcl:
            return {"cls": torch.stack(plain).mean()}
        pooled = [F.multilabel_soft_margin_loss(self.pooled(v), tags) for v in views]
        return {"cls": torch.stack(pooled).mean(), "cls_plain": torch.stack(plain).mean()}

    def pooled(self, view: View) -> Tensor:
        """Log-mean-exp over the groups of each photo, ``(B, C)``."""
        sharpness, scores = self.method.pool_sharpness, []
        for cam, ids in zip(view.final[:, 1:].flatten(2), view.ids, strict=True):
            present = torch.stack([cam[:, ids == group].mean(1) for group in ids.unique()])
            scores.append((sharpness * present).exp().mean(0).log() / sharpness)
        return torch.stack(scores)

    def maps(self, view: View, tags: Tensor) -> Tensor:
        """CAMs divided by their maximum, with a constant background."""
        with torch.no_grad():
            cam = F.relu(view.final[:, 1:]) * tags[:, :, None, None]
            cam = cam / (cam.flatten(2).max(2).values[..., None, None] + EPS)
            return F.pad(cam, (0, 0, 0, 0, 1, 0), value=self.method.bg_score)

    def group_contrast(self, views: Sequence[View], tags: Tensor) -> Tensor:
        """Eq. (6), (7), one group after the other."""
        groups: list[tuple[Tensor, int, int]] = []
        for number, view in enumerate(views):
            for photo, cam in enumerate(self.maps(view, tags)):
                present = F.pad(tags[photo] > 0, (1, 0), value=True)
                for group in view.ids[photo].unique():
                    mean = cam.flatten(1)[:, view.ids[photo] == group].mean(1)
                    category = int(torch.where(present, mean, -torch.inf).argmax())
                    source = number * len(tags) + photo
                    groups.append((view.embeddings[photo][group], category, source))
        past = [(e, category, -1) for category, es in self.memory.items() for e in es]
        others = torch.stack([embedding for embedding, _, _ in (*groups, *past)])
        terms: dict[int, list[Tensor]] = {}
        for embedding, category, source in groups:
            similarity = F.cosine_similarity(embedding[None], others) / self.method.temperature
            labels = [(other, place) for _, other, place in (*groups, *past)]
            positive = [k for k, (c, s) in enumerate(labels) if c == category and s != source]
            negative = [k for k, (c, _) in enumerate(labels) if c != category]
            if not positive:
                continue
            against = similarity[negative].exp().sum()
            agreeing = similarity[positive].exp()
            cost = -(agreeing / (agreeing + against)).log().mean()
            terms.setdefault(source, []).append(cost)
        for embedding, category, _ in groups:
            kept = [*self.memory.get(category, []), embedding.detach()]
            self.memory[category] = kept[-self.model.context.memory.size :]
        return torch.stack([torch.stack(costs).mean() for costs in terms.values()]).mean()

    def semantic_contrast(self, view: View, tags: Tensor) -> Tensor:
        """Eq. (9): cross-entropy of each group with its share of pseudo labels."""
        costs = []
        for cam, ids, logits in zip(self.maps(view, tags), view.ids, view.logits, strict=True):
            labels = cam.argmax(0).flatten()
            own = []
            for group in ids.unique():
                votes = F.one_hot(labels[ids == group], len(cam)).to(logits)
                own.append(-(votes.mean(0) * logits[group].log_softmax(0)).sum())
            costs.append(torch.stack(own).mean())
        return torch.stack(costs).mean()


def both_sides(config: Config, num_classes: int, batch: Batch) -> dict[str, Callable[[], Losses]]:
    """Training steps of the twin and of ours from the same weights; each returns its losses."""
    torch.manual_seed(config.seed)
    model = build_model(config, num_classes).to(batch.image.dtype).train()
    objective = build_objective(config.method, num_classes + 1).train()
    twin = NaiveTwin(model, config).to(batch.image.dtype).train()
    plain = batch.image.contiguous()

    def ours() -> Losses:
        model.zero_grad()
        torch.manual_seed(config.seed)
        losses = objective(model(batch.image, batch.tags), batch, 1.0)
        losses.total.backward()
        return detached(losses.terms | {"total": losses.total})

    def naive() -> Losses:
        twin.zero_grad()
        torch.manual_seed(config.seed)
        losses = twin(Batch(plain, batch.tags, batch.ids))
        losses["total"].backward()
        return detached(losses)

    return {"twin": naive, "ours": ours}


def detached(losses: Losses) -> Losses:
    """The losses without their graph."""
    return {name: value.detach() for name, value in losses.items()}


def difference(steps: Mapping[str, Callable[[], Losses]]) -> dict[str, dict[str, float]]:
    """Losses of both sides and their relative difference, by name."""
    twin, ours = (steps[side]() for side in ("twin", "ours"))
    return {
        name: {
            "twin": float(twin[name]),
            "ours": float(value),
            "relative": abs(float(twin[name] - value)) / max(abs(float(value)), 1e-12),
        }
        for name, value in ours.items()
    }


def pairs_of(steps: Mapping[str, Callable[[], Losses]], count: int) -> dict[str, Any]:
    """CPU and wall seconds of both sides in turn, and the ratio of their medians."""
    taken: dict[str, dict[str, list[float]]] = {side: {"cpu": [], "wall": []} for side in steps}
    for index in range(count):
        for side in sorted(steps, reverse=index % 2 == 0):
            started = time.process_time(), time.perf_counter()
            steps[side]()
            taken[side]["cpu"].append(round(time.process_time() - started[0], 4))
            taken[side]["wall"].append(round(time.perf_counter() - started[1], 4))
    median = {s: {k: statistics.median(v) for k, v in t.items()} for s, t in taken.items()}
    ratio = {k: round(median["ours"][k] / median["twin"][k], 4) for k in ("cpu", "wall")}
    return {"ratio": ratio, "median_seconds": median, "seconds": taken}


def main() -> None:
    """Compare losses and times of each variant; both are printed and written."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--config", default="msrc_seam_dscnet")
    parser.add_argument("--num-classes", type=int, default=17)
    parser.add_argument("--variants", nargs="+", default=["baseline", "M1", "M4"])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--set", type=yaml.safe_load, default={}, help="{dotted.setting: value}")
    options = parser.parse_args()
    recipe = from_dict(Config, yaml.safe_load(find_recipe(options.config).read_text()))
    recipe = replace_settings(recipe, {"train.accelerator": "cpu"} | options.set)
    batch = random_batch(recipe, options.num_classes)
    content: dict[str, Any] = {"environment": environment(recipe.seed), "config": options.config}
    content |= {"settings": options.set, "batch_size": len(batch.ids), "pairs": options.pairs}
    content["crop_size"], content["variants"] = batch.image.shape[-1], {}
    for variant in options.variants:
        config = replace_settings(recipe, {"method.variant": variant})
        steps = both_sides(config, options.num_classes, batch)
        found = {"losses": difference(steps), **pairs_of(steps, options.pairs)}
        content["variants"][variant] = found
        worst = max(row["relative"] for row in found["losses"].values())
        print(
            f"{variant:10} ours / twin {found['ratio']}, losses differ by {worst:.1e}", flush=True
        )
    write_text(options.json, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
