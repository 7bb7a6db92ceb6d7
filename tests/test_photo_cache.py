from __future__ import annotations

import multiprocessing
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from dscnet.data import loader as loading
from dscnet.data.datasets import PhotoSet, Sample
from dscnet.data.loader import PhotoDataset, make_loader
from dscnet.data.photo_cache import PhotoCache, SharedPhotoCache
from dscnet.data.transforms import EvalTransform

forked = pytest.mark.skipif(
    sys.platform != "linux" or multiprocessing.get_start_method() != "fork",
    reason="memory is shared with forked processes",
)


def item(seed, *, mask=True):
    generator = torch.Generator().manual_seed(seed)
    photo = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 9, (5, 7), dtype=torch.uint8, generator=generator) if mask else None
    return photo, labels, torch.rand(2, 3, 3, generator=generator)


def same(first, second):
    return all(
        (a is None and b is None) or (a.dtype == b.dtype and torch.equal(a, b))
        for a, b in zip(first, second, strict=True)
    )


@pytest.fixture(params=["private", "shared"])
def new_cache(request):
    """Makes a cache of some items of three tensors, within a limit."""
    if request.param == "private":
        return lambda count, limit: PhotoCache(limit)
    return lambda count, limit: SharedPhotoCache(count, 3, limit)


def flat(size, value=0):
    return torch.full((size,), value, dtype=torch.uint8), None, None


def test_what_was_put_is_got(new_cache):
    cache = new_cache(4, 1 << 20)
    items = {
        2: item(0),
        0: item(1, mask=False),
        3: (item(2)[0], None, torch.zeros(0, 4, 4, dtype=torch.float16)),
    }
    for index, planes in items.items():
        assert cache.get(index) is None
        cache.put(index, planes)
    for index, planes in items.items():
        assert same(cache.get(index), planes)
    assert cache.get(1) is None


def test_a_second_put_takes_no_room(new_cache):
    cache = new_cache(2, 2 * 48)
    for index in (0, 0, 1):
        cache.put(index, flat(48, index))
    assert same(cache.get(0), flat(48, 0)) and same(cache.get(1), flat(48, 1))


def test_an_item_beyond_the_limit_is_not_kept_and_a_smaller_one_is(new_cache):
    cache = new_cache(3, 100)
    for index, size in enumerate((64, 64, 32)):
        cache.put(index, flat(size, index))
    assert [cache.get(index) is not None for index in range(3)] == [True, False, True]
    assert same(cache.get(2), flat(32, 2))


def test_a_copy_for_another_process_is_private_and_empty():
    cache = SharedPhotoCache(2, 3, 1000)
    cache.put(0, item(0))
    copy = pickle.loads(pickle.dumps(cache))
    assert cache.get(0) is not None and copy.get(0) is None
    copy.put(1, item(1))
    assert same(copy.get(1), item(1)) and cache.get(1) is None


def test_private_caches_divide_the_limit_among_the_workers(monkeypatch):
    cache = pickle.loads(pickle.dumps(SharedPhotoCache(3, 3, 128)))
    worker = SimpleNamespace(num_workers=2)
    monkeypatch.setattr("dscnet.data.photo_cache.get_worker_info", lambda: worker)
    for index in range(3):
        cache.put(index, flat(32))
    assert [cache.get(index) is not None for index in range(3)] == [True, True, False]


@pytest.fixture
def decodings(tmp_path, monkeypatch) -> Path:
    """A file to which every process appends a line per photo that it decodes."""
    record, read = tmp_path / "decodings.txt", loading.read_image

    def recorded(path, *args):
        with record.open("a", encoding="utf-8") as file:
            file.write(f"{path.stem}\n")
        return read(path, *args)

    monkeypatch.setattr(loading, "read_image", recorded)
    return record


def epochs(dataset, workers, count):
    loader = make_loader(dataset, batch_size=1, seed=3, shuffle=True, num_workers=workers)
    found = []
    for epoch in range(count):
        loader.sampler.set_epoch(epoch)
        found += [(batch.ids[0], batch.image) for batch in loader]
    return found


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=forked)])
def test_a_photo_is_decoded_once_whatever_the_number_of_workers(decodings, tmp_path, workers):
    rng = np.random.default_rng(0)
    for number in range(6):
        picture = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        picture.save(tmp_path / f"{number}.png")
    samples = tuple(Sample(str(n), tmp_path / f"{n}.png", (0,)) for n in range(6))
    photos, plain = PhotoSet("six", ("ant",), samples), EvalTransform((0.5,) * 3, (0.5,) * 3)
    found = epochs(PhotoDataset(photos, plain), workers, 4)
    names = decodings.read_text(encoding="utf-8").split()
    assert sorted(names) == [sample.image_id for sample in samples]
    uncached = epochs(PhotoDataset(photos, plain, cache_bytes=0), 0, 4)
    for (name, image), (expected, original) in zip(found, uncached, strict=True):
        assert name == expected and torch.equal(image, original)


@forked
def test_the_limit_is_that_of_all_workers_together(decodings, tmp_path):
    for number in range(6):
        Image.new("RGB", (8, 8), (number,) * 3).save(tmp_path / f"{number}.png")
    samples = tuple(Sample(str(n), tmp_path / f"{n}.png", (0,)) for n in range(6))
    plain = EvalTransform((0.5,) * 3, (0.5,) * 3)
    dataset = PhotoDataset(PhotoSet("six", ("a",), samples), plain, cache_bytes=2 * 3 * 8 * 8)
    epochs(dataset, 2, 3)
    # Two photos are kept; the other four are decoded in each epoch.
    assert len(decodings.read_text(encoding="utf-8").split()) == 6 + 4 + 4
