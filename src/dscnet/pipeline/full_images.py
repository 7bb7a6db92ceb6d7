"""Batches of whole photos of equal size for inference over a data set, and their tags."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from dscnet.build import build_scale
from dscnet.data import EvalTransform, PhotoSet, Sample, image_size, read_image
from dscnet.data.scale import PhotoScale
from dscnet.distributed.ranks import own_part
from dscnet.files.in_threads import in_threads
from dscnet.labels.cam import resize_photos, scaled_photo
from dscnet.pipeline.job import Job


class PhotoBatch(NamedTuple):
    """Training photos of equal input sizes."""

    samples: list[Sample]
    views: list[torch.Tensor]
    """The photos at each scale, normalised, ``(B, 3, *, *)``."""
    tags: torch.Tensor
    """``(B, C)`` in {0, 1}."""
    size: tuple[int, int]
    """Height and width of their CAMs."""


def photo_batches(
    job: Job, transform: EvalTransform, *, scales: Sequence[float]
) -> Iterator[PhotoBatch]:
    """This rank's training photos, whole and without augmentation, in batches of equal size."""
    tags, cam, scale = tag_matrix(job.train), job.config.cam, build_scale(job.config)
    make = _published_view if cam.published_resize_quirk else _view

    def read(indices: list[int]) -> PhotoBatch:
        samples = [job.train.samples[index] for index in indices]
        sizes = [image_size(sample.image_path) for sample in samples]
        photos = [read_image(sample.image_path, scale.read_side(scales)) for sample in samples]
        views = [
            torch.stack(
                [
                    make(photo, scale.view_size(size, one), transform)
                    for photo, size in zip(photos, sizes, strict=True)
                ]
            )
            for one in scales
        ]
        return PhotoBatch(samples, views, tags[indices], scale.work_size(sizes[0]))

    # Whole batches: the context relates the photos of a batch to each other.
    batches = own_part([*same_size_batches(job.train, scale, scales, cam.batch_size)])
    # The next batch is read while the network sees this one.
    yield from in_threads(read, batches, ahead=1)


def tag_matrix(photos: PhotoSet) -> torch.Tensor:
    """Tags of a photo set, ``(N, C)`` float in {0, 1}."""
    matrix = torch.zeros(len(photos.samples), photos.num_classes)
    tags = [sample.tags or () for sample in photos.samples]
    rows = torch.arange(len(tags)).repeat_interleave(
        torch.tensor([len(own) for own in tags], dtype=torch.long)
    )
    matrix[rows, torch.tensor([index for own in tags for index in own], dtype=torch.long)] = 1
    return matrix


def _view(photo: torch.Tensor, size: tuple[int, int], transform: EvalTransform) -> torch.Tensor:
    """Normalise a photo ``(3, H, W)`` uint8, then resize it."""
    return resize_photos(transform(photo, None)[0][None], size)[0]


def _published_view(
    photo: torch.Tensor, size: tuple[int, int], transform: EvalTransform
) -> torch.Tensor:
    """Resize a photo in 8 bits, then normalise it."""
    scaled = scaled_photo(photo.permute(1, 2, 0).numpy(), size)
    return transform(torch.from_numpy(scaled).permute(2, 0, 1), None)[0]


def same_size_batches(
    photos: PhotoSet, scale: PhotoScale, scales: Sequence[float], batch_size: int
) -> Iterator[list[int]]:
    """Indices of photos of equal input sizes, at most ``batch_size`` per batch."""
    by_size: dict[tuple[tuple[int, int], ...], list[int]] = {}
    for index, sample in enumerate(photos.samples):
        size = image_size(sample.image_path)
        seen = (scale.work_size(size), *(scale.view_size(size, one) for one in scales))
        by_size.setdefault(seen, []).append(index)
    for indices in by_size.values():
        for start in range(0, len(indices), batch_size):
            yield indices[start : start + batch_size]
