"""Computes the CAMs of the training photos with a trained network."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from dscnet.build import build_eval_transform, build_scale, device_of
from dscnet.data import Sample
from dscnet.data.scale import PhotoScale, windows
from dscnet.distributed.ranks import barrier
from dscnet.files.in_threads import in_threads
from dscnet.labels.cam import Score, multi_scale_cam
from dscnet.labels.cam_files import coarse_maps, write_cam
from dscnet.labels.windows import score_windows
from dscnet.models import PlainCam
from dscnet.pipeline.full_images import photo_batches
from dscnet.pipeline.job import Job
from dscnet.pipeline.maps import map_name
from dscnet.run_folder import fresh_folder


class BatchCams(NamedTuple):
    """CAMs of photos of equal size."""

    samples: list[Sample]
    maps: dict[str, torch.Tensor]
    """``(B, C, H, W)`` by name."""
    coarse: list[torch.Tensor]
    """Coarse CAMs of each scale, ``(B, C, h, w)``; empty unless they are kept."""


def write_cams(job: Job, model: PlainCam) -> None:
    """Write the CAMs of all training photos into the job's folder."""
    fresh_folder(job.folder.cams)
    # Files are compressed and written while the network sees the next photos.
    for _ in in_threads(partial(_write, job.folder.cams), _compute(job, model), ahead=1):
        pass
    barrier()


def _compute(job: Job, model: PlainCam) -> Iterator[BatchCams]:
    config, card = job.config, job.folder.read_card()
    device = device_of(config.train.accelerator)
    model.to(device).eval()
    transform = build_eval_transform(card["mean"], card["std"])
    unstretched = ("refined",) if config.has_rounds and config.auxseg.published_cam_quirk else ()
    for batch in photo_batches(job, transform, scales=config.cam.scales):
        # K-means starts at random: results must not depend on what ran before in this process.
        torch.manual_seed(config.seed)
        of_scales: list[dict[str, torch.Tensor]] = []
        with torch.inference_mode():
            maps = multi_scale_cam(
                _by_windows(model.score_maps, build_scale(config)),
                None,
                batch.tags.to(device),
                flip=config.cam.flip,
                views=[view.to(device) for view in batch.views],
                size=batch.size,
                unstretched=unstretched,
                published_resize=config.cam.published_resize_quirk,
                each_scale=of_scales.append if config.cam.keep_scales else None,
            )
        coarse = [coarse_maps(one[map_name(one)]) for one in of_scales]
        yield BatchCams(batch.samples, maps, coarse)


def _write(folder: Path, batch: BatchCams) -> None:
    for row, sample in enumerate(batch.samples):
        present = np.asarray(sample.tags or (), dtype=np.int64)
        scales = [maps[row, present] for maps in batch.coarse]
        write_cam(
            folder / f"{sample.image_id}.npz",
            {name: value[row, present].cpu().numpy() for name, value in batch.maps.items()},
            present,
            scales=torch.stack(scales).cpu() if scales else None,
        )


def _by_windows(score: Score, scale: PhotoScale) -> Score:
    """Apply a scoring function window by window, see ``scale.tiles``."""

    def scored(view: torch.Tensor, tags: torch.Tensor) -> dict[str, torch.Tensor]:
        size = (view.shape[-2], view.shape[-1])
        return score_windows(score, view, tags, windows(size, scale.tiles, scale.tile_overlap))

    return scored
