"""Measures the resources that each stage needs by trial steps.

One or two steps of each stage run on noise, small enough to fit, and are extrapolated: memory and
time of every stage are linear in the photos per batch and their pixels, as anything quadratic works
in blocks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch

from dscnet.build import (
    build_model,
    build_scale,
    build_segmenter,
    build_train_transform,
    device_of,
    inference_settings,
)
from dscnet.config import Config
from dscnet.config.settings import replace_settings
from dscnet.data import read_image
from dscnet.data.loader import CACHE_BYTES
from dscnet.data.scale import PhotoScale, Size, with_long_side
from dscnet.distributed.ranks import group_size
from dscnet.labels.cam import multi_scale_cam
from dscnet.models import SegmentationPath
from dscnet.objective import SegmentationObjective
from dscnet.pipeline.job import Job
from dscnet.pipeline.memory_use import free_memory, memory_in_use, peak_memory
from dscnet.predictor import Predictor
from dscnet.refine.crf import dense_crf
from dscnet.tables.step_time import PRECISIONS, random_batch, training_step
from dscnet.types import Batch

TRIED_PIXELS = 500_000
"""Steps with up to this many pixels are tried at full size."""

OWN_SIZE_BYTES = 16
"""Bytes per pixel for reading a photo and making labels at its own size."""


@dataclass(frozen=True)
class StageNeed:
    """Resources needed by a stage.

    Attributes:
        stage: Its name.
        memory: Peak bytes beyond those in use at the start.
        seconds: Time of the whole stage.
        remedy: The setting that lowers its memory.
    """

    stage: str
    memory: float
    seconds: float
    remedy: str


def try_stages(job: Job, sizes: Sequence[Size]) -> tuple[StageNeed, ...]:
    """Measure a step of each stage.

    Args:
        job: Settings and photos; nothing is written, and the random state is restored.
        sizes: Heights and widths of all photos, including val; the largest counts.
    """
    config, train = job.config, job.train
    own = OWN_SIZE_BYTES * max(math.prod(size) for size in sizes)
    started = time.monotonic()
    read_image(train.samples[0].image_path, build_scale(config).read_side(config.cam.scales))
    reading = (time.monotonic() - started) * len(train.samples)
    state = torch.get_rng_state()
    try:
        return (
            _train_need(job, sizes, reading),
            _cam_need(job, sizes, own, reading),
            *_refine_need(job, sizes, own),
            *_segment_needs(job, sizes, own, reading),
        )
    finally:
        torch.set_rng_state(state)


def _train_need(job: Job, sizes: Sequence[Size], reading: float) -> StageNeed:
    config, settings = job.config, job.config.train
    batch_size = min(settings.batch_size, len(job.train.samples))
    # Pretrained weights do not change the time, but would have to be downloaded.
    tried = replace_settings(config, {"model.weights": "none"})
    if settings.precision not in PRECISIONS:
        tried.train.precision = "32"

    def step_of(count: int) -> Callable[[], None]:
        few = replace_settings(tried, {"train.batch_size": count})
        batch = random_batch(few, job.train.num_classes)
        return training_step(few, batch, job.train.num_classes)

    with torch.device("meta"):
        network = build_model(tried, job.train.num_classes, pretrained=False)
    memory, seconds = _two_steps(config, network, step_of, batch_size)
    steps = settings.steps(len(job.train.samples) // batch_size)
    rounds = config.auxseg.rounds + 1 if config.has_rounds else 1
    return StageNeed(
        "train",
        memory + _cached(job, sizes),
        rounds * steps * seconds + reading,
        f"lower --train.batch_size (it is {settings.batch_size}) or --augment.crop_size"
        f" (it is {config.augment.crop_size})",
    )


def _cam_need(job: Job, sizes: Sequence[Size], own: float, reading: float) -> StageNeed:
    config, scale = job.config, build_scale(job.config)
    size = max(sizes, key=lambda one: math.prod(scale.work_size(one)))
    views = [scale.view_size(size, one) for one in config.cam.scales]
    batch = min(config.cam.batch_size, len(job.train.samples))
    pixels = max(math.prod(view) for view in (*views, scale.work_size(size))) * batch
    shrink = min(1.0, math.sqrt(TRIED_PIXELS / pixels))
    device = device_of(config.train.accelerator)
    model = build_model(config, job.train.num_classes, pretrained=False).to(device).eval()
    most = max(1, *(len(sample.tags or ()) for sample in job.train.samples))
    tags = torch.zeros(batch, job.train.num_classes, device=device)
    tags[:, :most] = 1

    def step() -> None:
        noise = [torch.randn(batch, 3, *_times(view, shrink), device=device) for view in views]
        multi_scale_cam(
            model.score_maps,
            None,
            tags,
            views=noise,
            size=_times(scale.work_size(size), shrink),
            flip=config.cam.flip,
        )

    with torch.inference_mode():
        memory, seconds = peak_memory(step, device)
    return StageNeed(
        "cam",
        memory / shrink**2 + own,
        seconds / shrink**2 * math.ceil(len(job.train.samples) / batch) + reading,
        _inference_remedy(config, size, memory / shrink**2, batch, "cam.batch_size"),
    )


def _refine_need(job: Job, sizes: Sequence[Size], own: float) -> list[StageNeed]:
    """Every step is estimated by a dense CRF, the most expensive one."""
    config, scale = job.config, build_scale(job.config)
    if not config.refine.steps:
        return []
    size = max((scale.work_size(one) for one in sizes), key=math.prod)
    shrink = min(1.0, math.sqrt(TRIED_PIXELS / math.prod(size)))
    device = device_of(config.train.accelerator)
    shape = _times(size, shrink)
    start = torch.rand(1, 3, *shape, device=device)
    photo = torch.randint(0, 256, (1, 3, *shape), dtype=torch.uint8, device=device)
    memory, seconds = peak_memory(lambda: dense_crf(start, photo), device)
    whole = seconds / shrink**2 * len(config.refine.steps) * len(job.train.samples)
    remedy = _inference_remedy(config, max(sizes, key=math.prod), memory / shrink**2, 1, "")
    return [StageNeed("refine", memory / shrink**2 + own, whole, remedy)]


def _segment_needs(job: Job, sizes: Sequence[Size], own: float, reading: float) -> list[StageNeed]:
    """Needs of training and testing the segmentation network."""
    config, segment, num_labels = job.config, job.config.segment, job.train.num_labels
    device = device_of(segment.accelerator)
    stages = []
    network: Any
    if config.own_branch:
        branch: Any = build_model(config, job.train.num_classes, pretrained=False)
        network = SegmentationPath(branch, averaged=segment.branch_scores == "averaged")
    else:
        network = build_segmenter(config, num_labels, pretrained=False).to(device).train()
        batch_size = min(segment.batch_size, len(job.train.samples))
        crop = segment.crop_size or config.augment.crop_size
        objective = SegmentationObjective()

        def step_of(count: int) -> Callable[[], None]:
            image = torch.randn(count, 3, crop, crop, device=device)
            mask = torch.randint(0, num_labels, (count, crop, crop), device=device)
            batch = Batch(image, image.new_zeros(count, num_labels - 1), [""] * count, mask)

            def step() -> None:
                network.zero_grad()
                objective(network(batch.image, batch.tags), batch, 1.0).total.backward()

            return step

        memory, seconds = _two_steps(config, network, step_of, batch_size)
        steps = segment.steps(max(1, len(job.train.samples) // batch_size)) * segment.rounds
        remedy = f"lower --segment.batch_size (it is {segment.batch_size})"
        stages.append(
            StageNeed("segment", memory + _cached(job, sizes), steps * seconds + reading, remedy)
        )
    return [*stages, _test_need(job, network, sizes, own)]


def _test_need(job: Job, network: Any, sizes: Sequence[Size], own: float) -> StageNeed:
    config, scale = job.config, build_scale(job.config)
    size = max(sizes, key=math.prod)
    views = [scale.view_size(size, one) for one in config.segment.test_scales]
    seen = max(math.prod(view) for view in (*views, scale.work_size(size)))
    shrink = min(1.0, math.sqrt(TRIED_PIXELS / seen))
    tried = _times(scale.work_size(size), shrink)
    settings = inference_settings(config)
    if shrink < 1:
        settings["scale"] = PhotoScale()
    mean = (0.5, 0.5, 0.5)
    predictor = Predictor(network, job.train.classes, mean=mean, std=mean, **settings)
    photo = torch.randint(0, 256, (3, *tried), dtype=torch.uint8)
    memory, seconds = peak_memory(
        lambda: predictor.work_probabilities(photo, tried), predictor.device
    )
    photos = 0 if job.val is None else len(job.val.samples)
    if config.segment.rounds > 1:
        photos += len(job.train.samples) * (config.segment.rounds - 1)
    remedy = _inference_remedy(config, size, memory / shrink**2, 1, "")
    return StageNeed("predict", memory / shrink**2 + own, seconds / shrink**2 * photos, remedy)


def _two_steps(
    config: Config,
    network: torch.nn.Module,
    step_of: Callable[[int], Callable[[], None]],
    batch_size: int,
) -> tuple[float, float]:
    """Bytes and seconds of a training step, from two steps with at most three photos.

    A step with the whole batch might not fit. Weights, gradients and optimiser state do not grow
    with the batch.

    Args:
        config: Settings, for the device.
        network: Has the trained parameters; may be on the meta device.
        step_of: Makes a step with a given number of photos.
        batch_size: Photos per actual step, over all ranks.
    """
    device = device_of(config.train.accelerator)
    if device.type != "cpu":
        # Each rank has a device of its own.
        batch_size = math.ceil(batch_size / group_size())
    weights = sum(parameter.nbytes for parameter in network.parameters())
    count = min(3, batch_size)
    before = memory_in_use(device)
    step = step_of(count)
    first, _ = peak_memory(step, device, before)
    second, seconds = peak_memory(step, device, before)
    photos = max(0.0, max(first, second) - 2 * weights) * batch_size / count
    return photos + 4 * weights, seconds * batch_size / count


def _inference_remedy(
    config: Config, size: tuple[int, int], memory: float, batch: int, batch_setting: str
) -> str:
    if batch > 1:
        return f"set --{batch_setting} 1 (it is {batch})"
    if config.scale.relative_to == "photo" and config.scale.work_side is None:
        free = free_memory(device_of(config.train.accelerator)) or memory
        side = max(1, int(max(size) * min(1.0, math.sqrt(0.5 * free / max(memory, 1)))))
        return (
            "set --scale.relative_to training, which resizes photos to the training size, or"
            f" --scale.work_side {side}"
        )
    return f"lower --scale.work_side (it is {max(build_scale(config).work_size(size))})"


def _cached(job: Job, sizes: Sequence[Size]) -> float:
    """Bytes of decoded photos and labels cached in training, by all workers together."""
    nothing = (0.5, 0.5, 0.5)
    side = build_train_transform(job.config, nothing, nothing).read_side
    kept = [4 * math.prod(with_long_side(one, min(max(one), side or max(one)))) for one in sizes]
    whole = fmean(kept) * len(job.train.samples)
    return min(CACHE_BYTES, whole)


def _times(size: tuple[int, int], factor: float) -> tuple[int, int]:
    return max(1, int(size[0] * factor)), max(1, int(size[1] * factor))
