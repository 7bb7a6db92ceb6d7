"""Reproducible batches: they depend on seed and epoch, not on the number of workers."""

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
from dscnet.data.photo_cache import PhotoCache, SharedPhotoCache
from dscnet.data.transforms import resize_labels, resize_photo
from dscnet.files.archives import is_file
from dscnet.types import IGNORE_INDEX, Batch, DataError

Transform = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor | None]]
CACHE_BYTES = 1 << 30
"""Default cache size for decoded photos and maps, bytes, of a loader and all its workers."""

Planes = tuple[Tensor, Tensor | None, Tensor | None]
"""A photo, its mask, and its saliency map or other maps."""


class LabelledByMaps(NamedTuple):
    """Maps that are augmented with the photo, and the labels derived from them afterwards.

    Attributes:
        read: Gives the maps of a photo, float ``(K, *, *)``.
        labels: Maps the augmented ones, ``(K, H, W)``, to labels, which replace the mask.
    """

    read: Callable[[Sample], Tensor]
    labels: Callable[[Tensor], Tensor]


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
    """Photos of a data set, read and transformed on demand.

    Args:
        photo_set: The photos. Unknown tags are treated as no tags.
        transform: Maps a uint8 photo ``(3, H, W)`` and mask ``(H, W)`` or None to network input.
            With saliency maps its method ``joint`` is used, which also transforms those.
        mask_dir: Folder of training masks ``<image id>.png``.
        use_masks: Use the data set's own masks instead; for evaluation.
        saliency_dir: Folder of training saliency maps ``<image id>.png``.
        maps: Maps that labels are derived from, instead of masks and saliency maps.
        long_side: Photos with a longer side, and their maps, are reduced to this; see ``read_side``
            of the transforms. None = never.
        cache_bytes: Maximum size of decoded photos kept in memory, by all workers together; 0 = no
            cache.

    Raises:
        ValueError: If both sources of masks are given, maps beside masks or saliency maps, or
            either kind of maps with a transform that does not support them.
        DataError: If a mask or saliency map is missing.
    """

    def __init__(
        self,
        photo_set: PhotoSet,
        transform: Transform,
        *,
        mask_dir: Path | None = None,
        use_masks: bool = False,
        saliency_dir: Path | None = None,
        maps: LabelledByMaps | None = None,
        long_side: int | None = None,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        if mask_dir is not None and use_masks:
            raise ValueError("mask_dir and use_masks exclude each other, got both")
        if maps is not None and (mask_dir is not None or use_masks or saliency_dir is not None):
            raise ValueError("maps exclude mask_dir, use_masks and saliency_dir")
        if (saliency_dir is not None or maps is not None) and not hasattr(transform, "joint"):
            raise ValueError("saliency_dir and maps need a transform with a method 'joint'")
        self.photo_set = photo_set
        self.transform = transform
        self.long_side = long_side
        self._masks = [_mask_path(sample, mask_dir, use_masks) for sample in photo_set.samples]
        self._maps = maps
        self._saliency = [_saliency_path(sample, saliency_dir) for sample in photo_set.samples]
        self.cache_bytes = cache_bytes
        self._cache: PhotoCache | SharedPhotoCache = PhotoCache(cache_bytes)

    def __len__(self) -> int:
        """Count the photos."""
        return len(self.photo_set.samples)

    def share_cache(self) -> None:
        """Let worker processes that are started from now on share one cache."""
        if not isinstance(self._cache, SharedPhotoCache):
            self._cache = SharedPhotoCache(len(self), 3, self.cache_bytes)

    def __getitem__(self, key: int | tuple[int, int]) -> Item:
        """Read and transform one photo.

        Args:
            key: Index, or index and seed. With a seed, the transform is seeded by it, and the
                state of torch's global generator is preserved.

        Raises:
            DataError: If a file cannot be used, or sizes differ.
        """
        index, seed = (key, None) if isinstance(key, int) else key
        sample = self.photo_set.samples[index]
        planes = self._read(index)
        if seed is None:
            image, mask, saliency = self._augment(*planes)
        else:
            with torch.random.fork_rng(devices=[]):
                # torch.manual_seed would also reseed the accelerator.
                torch.default_generator.manual_seed(seed)
                image, mask, saliency = self._augment(*planes)
        tags = torch.zeros(self.photo_set.num_classes)
        tags[list(sample.tags or ())] = 1
        return Item(image, tags, sample.image_id, mask, saliency)

    def __getitems__(self, keys: Sequence[int | tuple[int, int]]) -> list[Item]:
        """Read and transform the photos of a batch, called by ``DataLoader``.

        By one thread: a crop is so small that starting a second one takes longer than the work.
        """
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return [self[key] for key in keys]
        finally:
            torch.set_num_threads(threads)

    def _augment(self, image: Tensor, mask: Tensor | None, maps: Tensor | None) -> Planes:
        if maps is None:
            return (*self.transform(image, mask), None)
        augmented: Planes = self.transform.joint(image, mask, maps)  # type: ignore[attr-defined]
        if self._maps is None:
            return augmented
        crop, _, varied = augmented
        assert varied is not None
        return crop, self._maps.labels(varied), None

    def _read(self, index: int) -> Planes:
        if (kept := self._cache.get(index)) is not None:
            photo, *others = kept
            assert photo is not None
            return photo, others[0], others[1]
        path = self.photo_set.samples[index].image_path
        image, size = read_image(path, self.long_side), image_size(path)
        mask, maps = self._read_mask(index, size), self._read_maps(index, size)
        reduced = (image.shape[-2], image.shape[-1])
        if mask is not None and mask.shape != reduced:
            mask = resize_labels(mask, reduced)
        if maps is not None and maps.shape[1:] != reduced:
            maps = resize_photo(maps, reduced).clamp(0, 1)
        self._cache.put(index, (image, mask, maps))
        return image, mask, maps

    def _read_maps(self, index: int, size: tuple[int, int]) -> Tensor | None:
        if self._maps is not None:
            return self._maps.read(self.photo_set.samples[index])
        path = self._saliency[index]
        if path is None:
            return None
        saliency = read_saliency(path)
        if saliency.shape[1:] != size:
            raise DataError(
                f"{path} has {tuple(saliency.shape[1:])} rows and columns, but its photo "
                f"{self.photo_set.samples[index].image_path} has {size}; "
                "recreate the saliency map at the photo's size"
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
                "recreate the mask at the photo's size"
            )
        num_classes = self.photo_set.num_classes
        invalid = mask[(mask > num_classes) & (mask != IGNORE_INDEX)]
        if invalid.numel():
            raise DataError(
                f"{path}: has label {int(invalid[0])}, but {num_classes} classes have labels up "
                f"to {num_classes} ({IGNORE_INDEX} = ignore); correct the mask or the classes"
            )
        return mask


class SeededSampler(Sampler[tuple[int, int]]):
    """Photo indices, each with a seed for its augmentation.

    Order and seeds depend only on ``seed`` and the epoch, so a run resumed with ``set_epoch`` gets
    the same data as an uninterrupted one, on any number of ranks.

    Args:
        length: Number of photos.
        seed: Seed of the run, >= 0.
        shuffle: Whether the order is random.
        batch_size: Photos per batch over all ranks; not used by a single rank.
        rank: Index of the process; it gets consecutive photos of each batch.
        ranks: Number of processes. With more than one, an incomplete last batch is dropped.

    Raises:
        ValueError: If ``seed`` is negative, or ``batch_size`` not a multiple of ``ranks``.
    """

    def __init__(
        self,
        length: int,
        *,
        seed: int,
        shuffle: bool = True,
        batch_size: int = 1,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        if seed < 0:
            raise ValueError(f"seed must be >= 0, got {seed}")
        if ranks > 1 and batch_size % ranks:
            raise ValueError(f"batch_size must be a multiple of {ranks} ranks, got {batch_size}")
        self.length = length
        self.batch_size, self.rank, self.ranks = batch_size, rank, ranks
        self.seed = seed
        self.shuffle = shuffle
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, from 0, of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Count the photos of this rank."""
        return len(self._own(range(self.length)))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield ``(index, seed)`` once per photo of this rank."""
        rng = np.random.default_rng((self.seed, self.epoch))
        seeds = rng.integers(2**62, size=self.length).tolist()
        order = rng.permutation(self.length) if self.shuffle else np.arange(self.length)
        return iter([(index, seeds[index]) for index in self._own(order.tolist())])

    def _own(self, order: Sequence[int]) -> Sequence[int]:
        """This rank's part of each batch."""
        if self.ranks == 1:
            return order
        size, part = self.batch_size, self.batch_size // self.ranks
        starts = range(self.rank * part, len(order) // size * size, size)
        return [index for start in starts for index in order[start : start + part]]


def collate(items: Sequence[Item]) -> Batch:
    """Collate photos of the same size into a batch.

    Raises:
        ValueError: If there are no photos, sizes differ, or only some photos have masks or saliency
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
    rank: int = 0,
    ranks: int = 1,
) -> DataLoader[Batch]:
    """Create a reproducible loader; ``loader.sampler`` is a ``SeededSampler``.

    Args:
        dataset: The photos.
        batch_size: Photos per batch, over all ranks.
        seed: Seed of order and augmentation, >= 0.
        shuffle: Whether the order is random.
        num_workers: Worker processes; 0 = none. Does not affect the batches.
        drop_last: Whether to drop an incomplete last batch; several ranks always do.
        rank: Index of the process, which gets its part of each batch.
        ranks: Number of processes that share the batches.

    Raises:
        DataError: If ``drop_last`` would leave no batch.
        ValueError: If ``batch_size`` is not a multiple of ``ranks``.
    """
    if drop_last and len(dataset) < batch_size:
        raise DataError(
            f"{dataset.photo_set.name}: {len(dataset)} photos do not fill one batch of "
            f"{batch_size}; lower the batch size or add photos"
        )
    if num_workers > 0:
        # Without workers plain tensors are a little faster to write and read.
        dataset.share_cache()
    return DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_size=batch_size // ranks,
        sampler=SeededSampler(
            len(dataset),
            seed=seed,
            shuffle=shuffle,
            batch_size=batch_size,
            rank=rank,
            ranks=ranks,
        ),
        collate_fn=collate,
        num_workers=num_workers,
        drop_last=drop_last,
        persistent_workers=num_workers > 0,
        # A separate generator, so that starting an epoch does not use the global one.
        generator=torch.Generator().manual_seed(seed),
    )


def _mask_path(sample: Sample, mask_dir: Path | None, use_masks: bool) -> Path | None:
    if mask_dir is None and not use_masks:
        return None
    path = sample.mask_path if mask_dir is None else mask_dir / f"{sample.image_id}.png"
    if path is None:
        raise DataError(f"{sample.image_path}: has no mask; add one or use another split")
    if not is_file(path):
        raise DataError(f"{path}: no mask for photo {sample.image_path}; make the masks first")
    return path


def _saliency_path(sample: Sample, saliency_dir: Path | None) -> Path | None:
    if saliency_dir is None:
        return None
    path = saliency_dir / f"{sample.image_id}.png"
    if not is_file(path):
        raise DataError(f"{path}: no saliency map for photo {sample.image_path}; make it first")
    return path
