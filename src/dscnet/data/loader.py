"""Batches whose content depends on the seed and the epoch, never on the number of workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from dscnet.data.datasets import PhotoSet, Sample
from dscnet.data.io import image_size, read_image, read_mask, read_saliency
from dscnet.data.transforms import resize_labels, resize_photo
from dscnet.types import IGNORE_INDEX, Batch, DataError

Transform = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor | None]]
CACHE_BYTES = 1 << 30
"""Decoded photos and maps that a data set keeps by default, in each worker."""

Planes = tuple[Tensor, Tensor | None, Tensor | None]
"""A photo, its labels and its saliency map."""


class Item(NamedTuple):
    """One transformed photo: ``(3, H, W)``, tags ``(C,)``, its id and labels ``(H, W)`` or None.

    ``saliency`` is ``(1, H, W)`` in [0, 1], or None.
    """

    image: Tensor
    tags: Tensor
    image_id: str
    mask: Tensor | None
    saliency: Tensor | None = None


class PhotoDataset(Dataset[Item]):
    """Photos of a set, read and transformed on demand.

    Args:
        photo_set: The photos. Unknown tags count as no tag.
        transform: Maps a uint8 photo ``(3, H, W)`` and mask ``(H, W)`` or None to network input.
            With saliency maps its method ``joint`` takes and gives those too.
        mask_dir: Folder of label maps ``<image id>.png`` to learn from.
        use_masks: Take the data set's own masks instead; for evaluation.
        saliency_dir: Folder of saliency maps ``<image id>.png`` to learn from.
        long_side: Photos whose longer side has more pixels are reduced to this, maps with them; the
            ``read_side`` of a transform says what it needs. None = never.
        cache_bytes: Decoded photos are kept in memory up to this bound, in each worker; 0 = none.

    Raises:
        ValueError: If both sources of masks are asked for, or saliency maps of a transform that
            cannot take them.
        DataError: If a photo has no mask or no saliency map there.
    """

    def __init__(
        self,
        photo_set: PhotoSet,
        transform: Transform,
        *,
        mask_dir: Path | None = None,
        use_masks: bool = False,
        saliency_dir: Path | None = None,
        long_side: int | None = None,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        if mask_dir is not None and use_masks:
            raise ValueError("mask_dir and use_masks exclude each other, got both")
        if saliency_dir is not None and not hasattr(transform, "joint"):
            raise ValueError("saliency_dir needs a transform with a method 'joint'")
        self.photo_set = photo_set
        self.transform = transform
        self.long_side = long_side
        self.cache_bytes = cache_bytes
        self._masks = [_mask_path(sample, mask_dir, use_masks) for sample in photo_set.samples]
        self._saliency = [_saliency_path(sample, saliency_dir) for sample in photo_set.samples]
        self._cache: dict[int, Planes] = {}
        self._cached_bytes = 0

    def __len__(self) -> int:
        """Count the photos."""
        return len(self.photo_set.samples)

    def __getitem__(self, key: int | tuple[int, int]) -> Item:
        """Read and transform one photo.

        Args:
            key: Index, or index and seed. With a seed the transform's random numbers depend on
                it alone and torch's global generator is left as it was.

        Raises:
            DataError: If a file cannot be used, or photo and mask or saliency map differ in size.
        """
        index, seed = (key, None) if isinstance(key, int) else key
        sample = self.photo_set.samples[index]
        planes = self._read(index)
        if seed is None:
            image, mask, saliency = self._transform(*planes)
        else:
            with torch.random.fork_rng(devices=[]):
                # torch.manual_seed would reseed the accelerator too.
                torch.default_generator.manual_seed(seed)
                image, mask, saliency = self._transform(*planes)
        tags = torch.zeros(self.photo_set.num_classes)
        tags[list(sample.tags or ())] = 1
        return Item(image, tags, sample.image_id, mask, saliency)

    def _transform(self, image: Tensor, mask: Tensor | None, saliency: Tensor | None) -> Planes:
        if saliency is None:
            return (*self.transform(image, mask), None)
        varied: Planes = self.transform.joint(image, mask, saliency)  # type: ignore[attr-defined]
        return varied

    def _read(self, index: int) -> Planes:
        if index in self._cache:
            return self._cache[index]
        path = self.photo_set.samples[index].image_path
        image, size = read_image(path, self.long_side), image_size(path)
        mask, saliency = self._read_mask(index, size), self._read_saliency(index, size)
        reduced = (image.shape[-2], image.shape[-1])
        if mask is not None and mask.shape != reduced:
            mask = resize_labels(mask, reduced)
        if saliency is not None and saliency.shape[1:] != reduced:
            saliency = resize_photo(saliency, reduced).clamp(0, 1)
        planes = (image, mask, saliency)
        taken = sum(tensor.nbytes for tensor in planes if tensor is not None)
        if self._cached_bytes + taken <= self.cache_bytes:
            self._cache[index] = planes
            self._cached_bytes += taken
        return planes

    def _read_saliency(self, index: int, size: tuple[int, int]) -> Tensor | None:
        path = self._saliency[index]
        if path is None:
            return None
        saliency = read_saliency(path)
        if saliency.shape[1:] != size:
            raise DataError(
                f"{path} has {tuple(saliency.shape[1:])} rows and columns, but its photo "
                f"{self.photo_set.samples[index].image_path} has {size}; "
                "make the saliency map again at the photo's size"
            )
        return saliency

    def _read_mask(self, index: int, size: tuple[int, int]) -> Tensor | None:
        path = self._masks[index]
        if path is None:
            return None
        mask = read_mask(path)
        if mask.shape != size:
            raise DataError(
                f"{path} has {tuple(mask.shape)} rows and columns, but its photo "
                f"{self.photo_set.samples[index].image_path} has {size}; "
                "make the mask again at the photo's size"
            )
        num_classes = self.photo_set.num_classes
        strange = mask[(mask > num_classes) & (mask != IGNORE_INDEX)]
        if strange.numel():
            raise DataError(
                f"{path}: has label {int(strange[0])}, but {num_classes} classes have labels up "
                f"to {num_classes} ({IGNORE_INDEX} = ignore); correct the mask or the classes"
            )
        return mask


class SeededSampler(Sampler[tuple[int, int]]):
    """Photo indices, each with a seed for its augmentation.

    Order and seeds are a function of ``seed`` and the epoch alone, so a run that is resumed with
    ``set_epoch`` sees what an uninterrupted one would.

    Args:
        length: Number of photos.
        seed: Seed of the run, >= 0.
        shuffle: Whether the order is random.

    Raises:
        ValueError: If ``seed`` is negative.
    """

    def __init__(self, length: int, *, seed: int, shuffle: bool = True) -> None:
        if seed < 0:
            raise ValueError(f"seed must be >= 0, got {seed}")
        self.length = length
        self.seed = seed
        self.shuffle = shuffle
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, that the next iteration belongs to."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Count the photos."""
        return self.length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield ``(index, seed)`` for every photo once."""
        rng = np.random.default_rng((self.seed, self.epoch))
        seeds = rng.integers(2**62, size=self.length).tolist()
        order = rng.permutation(self.length) if self.shuffle else np.arange(self.length)
        return iter([(index, seeds[index]) for index in order.tolist()])


def collate(items: Sequence[Item]) -> Batch:
    """Join photos of one size into a batch.

    Raises:
        ValueError: If there is no photo, sizes differ, or only some photos have masks or saliency
            maps.
    """
    sizes = {tuple(item.image.shape[1:]) for item in items}
    if len(sizes) != 1:
        raise ValueError(f"items must be photos of one size (or one photo), got {sorted(sizes)}")
    masks = [item.mask for item in items if item.mask is not None]
    if masks and len(masks) != len(items):
        raise ValueError(f"items must all have a mask or none, got {len(masks)} of {len(items)}")
    maps = [item.saliency for item in items if item.saliency is not None]
    if maps and len(maps) != len(items):
        raise ValueError(f"items must all have saliency or none, got {len(maps)} of {len(items)}")
    return Batch(
        image=torch.stack([item.image for item in items]),
        tags=torch.stack([item.tags for item in items]),
        ids=[item.image_id for item in items],
        mask=torch.stack(masks) if masks else None,
        saliency=torch.stack(maps) if maps else None,
    )


def make_loader(
    dataset: PhotoDataset,
    *,
    batch_size: int,
    seed: int,
    shuffle: bool,
    num_workers: int = 0,
    drop_last: bool = False,
) -> DataLoader[Batch]:
    """Load batches reproducibly; ``loader.sampler`` is a ``SeededSampler`` to set the epoch on.

    Args:
        dataset: The photos.
        batch_size: Photos a batch.
        seed: Seed of order and augmentation, >= 0.
        shuffle: Whether the order is random.
        num_workers: Processes that read photos; 0 reads in this one. The batches are the same.
        drop_last: Whether a last, smaller batch is left out.

    Raises:
        DataError: If ``drop_last`` would leave no batch.
    """
    if drop_last and len(dataset) < batch_size:
        raise DataError(
            f"{dataset.photo_set.name}: {len(dataset)} photos do not fill one batch of "
            f"{batch_size}; lower the batch size or add photos"
        )
    return DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_size=batch_size,
        sampler=SeededSampler(len(dataset), seed=seed, shuffle=shuffle),
        collate_fn=collate,
        num_workers=num_workers,
        drop_last=drop_last,
        persistent_workers=num_workers > 0,
        # Its own generator, so that starting an epoch draws nothing from the global one.
        generator=torch.Generator().manual_seed(seed),
    )


def _mask_path(sample: Sample, mask_dir: Path | None, use_masks: bool) -> Path | None:
    if mask_dir is None and not use_masks:
        return None
    path = sample.mask_path if mask_dir is None else mask_dir / f"{sample.image_id}.png"
    if path is None:
        raise DataError(f"{sample.image_path}: has no mask; add one or take another split")
    if not path.is_file():
        raise DataError(f"{path}: no mask for photo {sample.image_path}; make the masks first")
    return path


def _saliency_path(sample: Sample, saliency_dir: Path | None) -> Path | None:
    if saliency_dir is None:
        return None
    path = saliency_dir / f"{sample.image_id}.png"
    if not path.is_file():
        raise DataError(f"{path}: no saliency map for photo {sample.image_path}; make it first")
    return path
