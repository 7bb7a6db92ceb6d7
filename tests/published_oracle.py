"""The published networks once more, from the tensors of their state dicts and elementary steps."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from dscnet.models import ResNet38

State = dict[str, Tensor]
Masks = dict[str, Tensor]

EPS = 1e-5
BLOCKS = (
    # name, stride, dilations of the two 3x3 convolutions
    *(("b2", 2, (1, 1)), ("b2_1", 1, (1, 1)), ("b2_2", 1, (1, 1))),
    *(("b3", 2, (1, 1)), ("b3_1", 1, (1, 1)), ("b3_2", 1, (1, 1))),
    *(("b4", 2, (1, 1)), *((f"b4_{i}", 1, (1, 1)) for i in range(1, 6))),
    *(("b5", 1, (1, 2)), ("b5_1", 1, (2, 2)), ("b5_2", 1, (2, 2))),
)


def narrow_resnet38(seed: int = 0, frozen_stages: int = 2) -> ResNet38:
    """A ResNet38 of 1/32 of the width, float64, with every number drawn."""
    generator = torch.Generator().manual_seed(seed)
    backbone = ResNet38(width=1 / 32, frozen_stages=frozen_stages).double()
    for name, values in backbone.state_dict().items():
        drawn = torch.randn(values.shape, generator=generator, dtype=torch.float64)
        if name.endswith("running_var"):
            values.copy_(0.5 + drawn.abs())
        elif "bn" in name and values.ndim == 1:
            values.copy_(0.2 * drawn + (1.0 if name.endswith("weight") else 0.0))
        elif values.ndim == 4:
            values.copy_(drawn * values[0].numel() ** -0.5)
    return backbone


def norm(x: Tensor, state: State, name: str) -> Tensor:
    """Batch normalisation by stored statistics, and a rectifier."""
    mean, var, weight, bias = (
        state[f"{name}.{key}"][:, None, None]
        for key in ("running_mean", "running_var", "weight", "bias")
    )
    return ((x - mean) / (var + EPS).sqrt() * weight + bias).clamp(min=0)


def conv(x: Tensor, state: State, name: str, stride: int = 1, dilation: int = 1) -> Tensor:
    kernel = state[f"{name}.weight"]
    return functional.conv2d(
        x,
        kernel,
        state.get(f"{name}.bias"),
        stride=stride,
        padding=dilation if kernel.shape[-1] == 3 else 0,
        dilation=dilation,
    )


def resnet38_maps(state: State, image: Tensor, masks: Masks | None = None) -> State:
    """conv3 to conv6; ``masks`` stand for channel dropout."""
    masks = masks or {}
    maps = {}
    x = conv(image, state, "conv1a")
    for name, stride, (first, second) in BLOCKS:
        a = norm(x, state, f"{name}.bn_branch2a")
        if name in ("b4", "b5"):
            maps["conv3" if name == "b4" else "conv4"] = a
        shortcut = x
        if f"{name}.conv_branch1.weight" in state:
            shortcut = conv(a, state, f"{name}.conv_branch1", stride)
        b = conv(a, state, f"{name}.conv_branch2a", stride, first)
        b = norm(b, state, f"{name}.bn_branch2b1")
        x = shortcut + conv(b, state, f"{name}.conv_branch2b1", 1, second)
    for name in ("b6", "b7"):
        a = norm(x, state, f"{name}.bn_branch2a")
        if name == "b6":
            maps["conv5"] = a
        b = norm(conv(a, state, f"{name}.conv_branch2a"), state, f"{name}.bn_branch2b1")
        b = b * masks.get(f"{name}.dropout_2b1", 1.0)
        b = conv(b, state, f"{name}.conv_branch2b1", 1, 4)
        b = norm(b, state, f"{name}.bn_branch2b2") * masks.get(f"{name}.dropout_2b2", 1.0)
        x = conv(a, state, f"{name}.conv_branch1") + conv(b, state, f"{name}.conv_branch2b2")
    maps["conv6"] = norm(x, state, "bn7")
    return maps


def interpolation(source: int, target: int, aligned: bool) -> Tensor:
    """Weights ``(target, source)`` of linear interpolation, entry by entry."""
    weights = torch.zeros(target, source, dtype=torch.float64)
    for i in range(target):
        if aligned:
            position = i * (source - 1) / (target - 1) if target > 1 else 0.0
        else:
            position = max((i + 0.5) * source / target - 0.5, 0.0)
        low = min(int(position), source - 1)
        share = position - low
        weights[i, low] += 1 - share
        weights[i, min(low + 1, source - 1)] += share
    return weights


def resized(maps: Tensor, size: tuple[int, int], aligned: bool = True) -> Tensor:
    rows, columns = (
        interpolation(source, target, aligned)
        for source, target in zip(maps.shape[-2:], size, strict=True)
    )
    return torch.einsum("ih,bchw,jw->bcij", rows, maps, columns)


def seam_maps(state: State, image: Tensor) -> tuple[Tensor, Tensor]:
    """SEAM's plain CAM and refined CAM, both at the size of the photo."""
    maps = resnet38_maps(state, image)
    cam = conv(maps["conv6"], state, "fc8")
    size = (cam.shape[2], cam.shape[3])
    squeezed = [
        conv(maps[tap].detach(), state, layer).clamp(min=0)
        for tap, layer in (("conv4", "f8_3"), ("conv5", "f8_4"))
    ]
    mixed = conv(torch.cat([resized(image, size), *squeezed], 1), state, "f9")
    refined = []
    for scores, features in zip(cam.detach(), mixed.flatten(2), strict=True):
        p = scores.clamp(min=0)
        p = (p - EPS).clamp(min=0) / (p.amax((1, 2), keepdim=True) + EPS)
        strongest = p[1:].max(0).values
        p[0] = 1 - strongest
        p[1:] = torch.where(p[1:] < strongest, 0.0, p[1:])
        p = p.flatten(1)
        f = features / ((features**2).sum(0).sqrt() + EPS)
        columns = []
        for j in range(f.shape[1]):
            a = (f * f[:, j : j + 1]).sum(0).clamp(min=0)
            columns.append((p * (a / (a.sum() + EPS))).sum(1))
        refined.append(torch.stack(columns, 1).view_as(scores))
    photo = (image.shape[2], image.shape[3])
    return resized(cam, photo), resized(torch.stack(refined), photo)


def stretched(maps: Tensor) -> Tensor:
    r = maps.clamp(min=0)
    low, high = r.amin((2, 3), keepdim=True), r.amax((2, 3), keepdim=True)
    return (r - low - EPS).clamp(min=0) / (high - low + EPS)


def seam_terms(state: State, image: Tensor, tags: Tensor, scale: float = 0.3) -> State:
    """SEAM's four losses; their sum is what is minimised."""
    height, width = image.shape[-2:]
    small = (int(height * scale), int(width * scale))
    cam1, rv1 = seam_maps(state, image)
    cam2, rv2 = seam_maps(state, resized(image, small))
    y = torch.cat([torch.ones_like(tags[:, :1]), tags], 1)[:, :, None, None]

    def classify(cam: Tensor) -> Tensor:
        s = cam.mean((2, 3))[:, 1:]
        return -(tags * s.sigmoid().log() + (1 - tags) * (1 - s.sigmoid()).log()).mean()

    def weakest(rv: Tensor) -> Tensor:
        x = (rv * y)[:, 1:].max(1).values.flatten(1)
        k = x.shape[1] // 4
        return sum(row.sort().values[:k].clamp(min=0).sum() for row in x) / (k * len(x))

    c1, v1 = (resized(stretched(maps), small) * y for maps in (cam1, rv1))
    c2, v2 = stretched(cam2) * y, stretched(rv2) * y

    def one_hot(c: Tensor) -> Tensor:
        foreground = c[:, 1:].detach()
        strongest = foreground.max(1, keepdim=True).values
        kept = torch.where(foreground == strongest, foreground, torch.zeros_like(foreground))
        return torch.cat([1 - strongest, kept], 1)

    def hardest(difference: Tensor) -> Tensor:
        entries = difference.abs().flatten(1)
        k = int(entries.shape[1] * 0.2)
        return torch.stack([row.sort(descending=True).values[:k].mean() for row in entries]).mean()

    return {
        "cls": (classify(cam1) + classify(cam2)) / 2,
        "min": (weakest(rv1) + weakest(rv2)) / 2,
        "er": (c1[:, 1:] - c2[:, 1:]).abs().mean(),
        "ecr": hardest(one_hot(c2) - v1) + hardest(one_hot(c1) - v2),
    }


def auxsegnet_maps(state: State, image: Tensor) -> State:
    """AuxSegNet's outputs: tag scores, both tasks before and after A at photo size, A times CAM."""
    conv6 = resnet38_maps(state, image)["conv6"]
    shape = conv6.shape[-2:]
    cam = conv(conv6, state, "fc8")
    initial, affinities = {}, []
    for task in ("seg", "sal"):
        f = conv(conv6, state, f"{task}_conv1", 1, 6).clamp(min=0)
        f = conv(f, state, f"{task}_conv2", 1, 12).clamp(min=0)
        theta, phi, g = (
            conv(f, state, f"{task}_{layer}").flatten(2) for layer in ("att.theta", "att.phi", "g")
        )
        products = torch.einsum("bei,bej->bij", theta, phi).exp()
        s = products / products.sum(2, keepdim=True)
        affinities.append(s)
        mixed = torch.einsum("bij,bej->bei", s, g).view_as(f)
        f = f + conv(mixed, state, f"{task}_W")
        f = conv(f, state, f"{task}_conv3", 1, 18).clamp(min=0)
        initial[task] = conv(f, state, f"{task}_conv4")
    pair = torch.stack(affinities, 1)
    weights = conv(conv(pair, state, "cross_att.0").clamp(min=0), state, "cross_att.2").exp()
    a = (weights / weights.sum(1, keepdim=True) * pair).sum(1)

    def spread(maps: Tensor) -> Tensor:
        return torch.einsum("bij,bcj->bci", a, maps.flatten(2)).unflatten(2, shape)

    photo = (image.shape[2], image.shape[3])
    positive = cam.clamp(min=0)
    return {
        "tags": cam.mean((2, 3)),
        "seg_initial": resized(initial["seg"], photo, aligned=False),
        "sal_initial": resized(initial["sal"], photo, aligned=False),
        "seg": resized(spread(initial["seg"]), photo, aligned=False),
        "sal": resized(spread(initial["sal"]), photo, aligned=False),
        "cam": spread(positive / (positive.amax((2, 3), keepdim=True) + EPS)),
    }
