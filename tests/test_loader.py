from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dscnet.data.datasets import PhotoSet, Sample, open_dataset
from dscnet.data.io import read_image
from dscnet.data.loader import (
    Item,
    LabelledByMaps,
    PhotoDataset,
    SeededSampler,
    collate,
    make_loader,
)
from dscnet.data.transforms import EvalTransform, TrainTransform
from dscnet.types import DataError

HALF = (0.5, 0.5, 0.5)


def save(path, values):
    Image.fromarray(np.asarray(values, dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def photos(tmp_path):
    """Five photos of 12 x 16 pixels with masks, of three classes."""
    rng = np.random.default_rng(0)
    samples = []
    for index, tags in enumerate([(0,), (1, 2), (), (2,), None]):
        name = f"p{index}"
        image = save(tmp_path / f"{name}.jpg", rng.integers(0, 256, (12, 16, 3)))
        mask = save(tmp_path / f"{name}.png", np.full((12, 16), index % 4))
        samples.append(Sample(name, image, tags, mask))
    return PhotoSet("five", ("ant", "bee", "cat"), tuple(samples))


def train(photos, **options):
    transform = TrainTransform(8, long_side=(8, 24), jitter=0.3, mean=HALF, std=HALF)
    return PhotoDataset(photos, transform, **options)


def evaluation(photos, **options):
    return PhotoDataset(photos, EvalTransform(HALF, HALF), **options)


def epoch_of(dataset, epoch=0, seed=7, **options):
    settings = {"batch_size": 2, "shuffle": True} | options
    loader = make_loader(dataset, seed=seed, **settings)
    loader.sampler.set_epoch(epoch)
    return list(loader)


def same(left, right):
    return len(left) == len(right) and all(
        a.ids == b.ids
        and torch.equal(a.image, b.image)
        and torch.equal(a.tags, b.tags)
        and (a.mask is b.mask is None or torch.equal(a.mask, b.mask))
        for a, b in zip(left, right, strict=True)
    )


def test_items_hold_photo_tags_and_id(photos):
    dataset = evaluation(photos)
    assert len(dataset) == 5
    item = dataset[1]
    assert item.image.shape == (3, 12, 16) and item.image_id == "p1" and item.mask is None
    assert item.tags.tolist() == [0, 1, 1] and item.tags.dtype == torch.float32
    assert dataset[2].tags.tolist() == [0, 0, 0] == dataset[4].tags.tolist()


def test_masks_come_from_the_set_only_when_asked(photos):
    assert evaluation(photos, use_masks=True)[3].mask.unique().tolist() == [3]


def test_masks_come_from_a_folder(photos, tmp_path):
    (tmp_path / "labels").mkdir()
    for sample in photos.samples:
        save(tmp_path / "labels" / f"{sample.image_id}.png", np.full((12, 16), 255))
    assert evaluation(photos, mask_dir=tmp_path / "labels")[3].mask.unique().tolist() == [255]


def test_missing_masks_are_said_before_training(photos, tmp_path):
    with pytest.raises(DataError, match=r"p0\.png: no mask for photo .*p0\.jpg"):
        evaluation(photos, mask_dir=tmp_path / "labels")
    bare = replace(photos, samples=(replace(photos.samples[0], mask_path=None),))
    with pytest.raises(DataError, match=r"p0\.jpg: has no mask"):
        evaluation(bare, use_masks=True)
    with pytest.raises(ValueError, match="mask_dir and use_masks exclude each other"):
        evaluation(photos, mask_dir=tmp_path, use_masks=True)


def test_mask_of_another_size_names_both_files(photos):
    save(photos.samples[0].mask_path, np.zeros((16, 12)))
    with pytest.raises(DataError, match=r"p0\.png has .*p0\.jpg has"):
        evaluation(photos, use_masks=True)[0]


@pytest.mark.parametrize("label", [4, 254])
def test_mask_with_a_strange_label_is_refused(photos, label):
    save(photos.samples[0].mask_path, np.full((12, 16), label))
    with pytest.raises(DataError, match=rf"p0\.png: has label {label}, but 3 classes"):
        evaluation(photos, use_masks=True)[0]


def test_seeded_item_is_repeatable_and_leaves_the_generators_alone(photos):
    dataset = train(photos)
    before = torch.get_rng_state()
    first = dataset[0, 11]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(dataset[0, 11].image, first.image)
    assert not torch.equal(dataset[0, 12].image, first.image)


def test_unseeded_item_follows_the_global_generator(photos):
    dataset = train(photos)
    views = []
    with torch.random.fork_rng(devices=[]):
        for seed in (1, 1, 2):
            torch.default_generator.manual_seed(seed)
            views.append(dataset[0].image)
    assert torch.equal(views[0], views[1]) and not torch.equal(views[0], views[2])


def test_photos_are_decoded_once_within_the_bound(photos):
    one_photo = 3 * 12 * 16
    for bound, kept in ((1 << 30, 5), (2 * one_photo, 2), (2 * one_photo - 1, 1), (0, 0)):
        dataset = evaluation(photos, cache_bytes=bound)
        items = [dataset[index] for index in range(5)]
        moved = [sample.image_path.rename(f"{sample.image_path}.away") for sample in photos.samples]
        for index in range(kept):
            assert torch.equal(dataset[index].image, items[index].image)
        for index in range(kept, 5):
            with pytest.raises(DataError, match="no such file"):
                dataset[index]
        for path, sample in zip(moved, photos.samples, strict=True):
            path.rename(sample.image_path)


def test_cache_is_not_spoilt_by_the_transform(photos):
    dataset = train(photos, use_masks=True)
    first = dataset[0, 1]
    first.image.zero_()
    first.mask.zero_()
    fresh = train(photos, use_masks=True)[0, 1]
    again = dataset[0, 1]
    assert torch.equal(again.image, fresh.image) and torch.equal(again.mask, fresh.mask)


def test_sampler_visits_every_photo_once():
    sampler = SeededSampler(10, seed=3)
    pairs = list(sampler)
    assert len(sampler) == 10
    assert sorted(index for index, _ in pairs) == list(range(10))
    assert [index for index, _ in pairs] != list(range(10))
    assert len({seed for _, seed in pairs}) == 10
    assert list(SeededSampler(0, seed=3)) == []


def test_sampler_without_shuffling_keeps_the_order():
    sampler = SeededSampler(4, seed=3, shuffle=False)
    assert [index for index, _ in sampler] == [0, 1, 2, 3]


def test_sampler_depends_on_seed_and_epoch_alone():
    def pairs(seed, epoch):
        sampler = SeededSampler(10, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert pairs(1, 2) == pairs(1, 2)
    distinct = [pairs(0, 0), pairs(0, 1), pairs(1, 0), pairs(1, 1), pairs(2, 0)]
    for position, left in enumerate(distinct):
        for right in distinct[position + 1 :]:
            assert left != right
            assert not {seed for _, seed in left} & {seed for _, seed in right}


def test_sampler_refuses_negative_seeds():
    with pytest.raises(ValueError, match="seed must be >= 0, got -1"):
        SeededSampler(3, seed=-1)


def test_batches_join_items(photos):
    batches = epoch_of(evaluation(photos, use_masks=True), shuffle=False)
    assert [batch.ids for batch in batches] == [["p0", "p1"], ["p2", "p3"], ["p4"]]
    assert batches[0].image.shape == (2, 3, 12, 16) and batches[0].mask.shape == (2, 12, 16)
    assert batches[0].tags.tolist() == [[1, 0, 0], [0, 1, 1]]
    assert epoch_of(evaluation(photos), shuffle=False)[0].mask is None


def test_batches_do_not_depend_on_the_number_of_workers(photos):
    dataset = train(photos, use_masks=True)
    for epoch in (0, 1):
        assert same(epoch_of(dataset, epoch), epoch_of(dataset, epoch, num_workers=2))


def test_photos_are_transformed_by_one_thread(photos):
    seen = []

    def transform(image, mask):
        seen.append(torch.get_num_threads())
        return torch.zeros(3, 8, 8), None

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        epoch_of(PhotoDataset(photos, transform))
        assert set(seen) == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_batches_do_not_depend_on_cache_or_global_seed(photos):
    cached = epoch_of(train(photos))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(99)
        before = torch.get_rng_state()
        uncached = epoch_of(train(photos, cache_bytes=0))
        assert torch.equal(torch.get_rng_state(), before)
    assert same(cached, uncached)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resumed_run_sees_what_an_uninterrupted_one_would(photos, num_workers):
    options = {"batch_size": 2, "seed": 5, "shuffle": True, "num_workers": num_workers}
    loader = make_loader(train(photos), **options)
    epochs = []
    for epoch in range(3):
        loader.sampler.set_epoch(epoch)
        epochs.append(list(loader))
    resumed = make_loader(train(photos), **options)
    resumed.sampler.set_epoch(2)
    assert same(list(resumed), epochs[2])
    assert not same(epochs[0], epochs[1])


def test_last_small_batch_can_be_left_out(photos):
    assert [len(batch.ids) for batch in epoch_of(train(photos), drop_last=True)] == [2, 2]


def test_dropping_every_batch_is_refused(photos):
    with pytest.raises(DataError, match="5 photos do not fill one batch of 8; lower"):
        make_loader(train(photos), batch_size=8, seed=0, shuffle=True, drop_last=True)


def test_items_that_do_not_fit_are_refused():
    def item(side, mask=None):
        return Item(torch.zeros(3, side, side), torch.zeros(2), "x", mask)

    with pytest.raises(ValueError, match="one size"):
        collate([item(4), item(5)])
    with pytest.raises(ValueError, match="one size"):
        collate([])
    with pytest.raises(ValueError, match="all have a mask or none, got 1 of 2"):
        collate([item(4), item(4, torch.zeros(4, 4))])


def test_photos_without_classes_have_empty_tags(photos):
    bare = replace(photos, classes=(), samples=(Sample("x", photos.samples[0].image_path),))
    assert epoch_of(evaluation(bare))[0].tags.shape == (1, 0)


@pytest.mark.data
def test_msrc_batches(shared_data):
    photo_set = open_dataset(shared_data / "msrc", "val")
    transform = TrainTransform(64, long_side=(64, 96), mean=HALF, std=HALF)
    dataset = PhotoDataset(photo_set, transform, use_masks=True)
    loader = make_loader(dataset, batch_size=16, seed=0, shuffle=True, drop_last=True)
    batches = list(loader)
    assert len(batches) == 6
    by_id = {sample.image_id: sample for sample in photo_set.samples}
    for batch in batches:
        assert batch.image.isfinite().all() and batch.mask.shape == (16, 64, 64)
        for image_id, tags in zip(batch.ids, batch.tags, strict=True):
            assert tuple(tags.nonzero().flatten().tolist()) == by_id[image_id].tags


def with_saliency(photos, folder):
    for index, sample in enumerate(photos.samples):
        save(folder / f"{sample.image_id}.png", np.full((12, 16), 51 * index))
    return folder


def test_large_photos_are_reduced_when_they_are_read_and_their_maps_with_them(tmp_path):
    """Four quarters of a colour, label and saliency each: halved, they are still quarters."""
    quarters = np.where(np.arange(40)[:, None] < 20, 0, 2) + np.where(np.arange(60) < 30, 0, 1)
    image = save(tmp_path / "p.jpg", np.stack([quarters * 80] * 3, -1).astype(np.uint8))
    for name in ("labels", "saliency"):
        (tmp_path / name).mkdir()
    save(tmp_path / "labels" / "p.png", quarters)
    save(tmp_path / "saliency" / "p.png", quarters * 80)
    made = PhotoSet("one", ("a", "b", "c"), (Sample("p", image, (0,), None),))
    transform = TrainTransform(4, long_side=(8, 15), jitter=0, mean=HALF, std=HALF)
    assert transform.read_side == 30
    dataset = PhotoDataset(
        made,
        transform,
        mask_dir=tmp_path / "labels",
        saliency_dir=tmp_path / "saliency",
        long_side=transform.read_side,
    )
    photo, mask, saliency = dataset._read(0)
    assert photo.shape[1:] == mask.shape == saliency.shape[1:] == (20, 30)
    inner = (slice(None, None, 13), slice(None, None, 23))
    assert mask[inner].tolist() == [[0, 1], [2, 3]]
    torch.testing.assert_close(saliency[0][inner] * 255 / 80, mask[inner].float())
    assert ((photo[0][inner] / 80).round() == mask[inner]).all()
    assert dataset[0].image.shape == (3, 4, 4)


def test_saliency_comes_from_a_folder_and_is_varied_with_the_photo(photos, tmp_path):
    folder = with_saliency(photos, tmp_path)
    dataset = train(photos, saliency_dir=folder)
    plain = train(photos)
    for index in range(5):
        item = dataset[index, 3]
        assert item.saliency.shape == (1, *item.image.shape[1:])
        assert item.saliency.max() == pytest.approx(0.2 * index)
        assert torch.equal(item.image, plain[index, 3].image)
    batch = collate([dataset[0, 1], dataset[1, 2]])
    assert batch.saliency.shape == (2, 1, *batch.image.shape[2:])
    assert collate([plain[0, 1]]).saliency is None
    with pytest.raises(ValueError, match="saliency or none, got 1 of 2"):
        collate([dataset[0, 1], plain[1, 2]])


def test_missing_and_mis_sized_saliency_maps_are_named(photos, tmp_path):
    folder = with_saliency(photos, tmp_path)
    with pytest.raises(ValueError, match="a transform with a method 'joint'"):
        evaluation(photos, saliency_dir=folder)
    save(folder / "p0.png", np.zeros((16, 12)))
    with pytest.raises(DataError, match=r"p0\.png has .*p0\.jpg has"):
        train(photos, saliency_dir=folder)[0]
    (folder / "p1.png").unlink()
    with pytest.raises(DataError, match=r"p1\.png: no saliency map for photo .*p1\.jpg"):
        train(photos, saliency_dir=folder)


def test_labels_derived_from_maps_follow_the_augmentation(photos):
    """The maps are the photo's own first channel: what is labelled is where the crop has it."""
    maps = LabelledByMaps(
        lambda sample: read_image(sample.image_path)[:1] / 255.0,
        lambda augmented: (augmented[0] > 0).long(),
    )
    transform = TrainTransform(24, long_side=(12, 20), jitter=0, mean=(0.0,) * 3, std=(1.0,) * 3)
    item = PhotoDataset(photos, transform, maps=maps)[0, 5]
    assert item.saliency is None
    assert item.mask.shape == (24, 24) and 0 < item.mask.sum() < 24 * 24
    torch.testing.assert_close(item.mask.bool(), item.image[0] > 0)


@pytest.mark.parametrize("other", [{"use_masks": True}, {"mask_dir": Path()}])
def test_maps_take_the_place_of_masks(photos, other):
    maps = LabelledByMaps(lambda sample: torch.zeros(1, 2, 2), lambda augmented: augmented[0])
    with pytest.raises(ValueError, match="maps exclude mask_dir, use_masks and saliency_dir"):
        PhotoDataset(photos, lambda image, mask: (image, mask), maps=maps, **other)
    with pytest.raises(ValueError, match="maps need a transform with a method 'joint'"):
        PhotoDataset(photos, lambda image, mask: (image, mask), maps=maps)
