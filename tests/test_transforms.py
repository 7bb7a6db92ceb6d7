from __future__ import annotations

import pytest
import torch

from dscnet.data.io import read_image, read_mask
from dscnet.data.transforms import EvalTransform, TrainTransform

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.1)


def train(crop_size=8, long_side=(12, 12), **options):
    options = {"jitter": 0.0, "flip": False, "mean": MEAN, "std": STD} | options
    return TrainTransform(crop_size, long_side=long_side, **options)


def photo(height=9, width=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)


def coordinates(height, width):
    """A photo whose red and green say where each pixel came from, and a mask that agrees."""
    rows = torch.arange(height, dtype=torch.uint8)[:, None].expand(height, width)
    columns = torch.arange(width, dtype=torch.uint8)[None].expand(height, width)
    return torch.stack([rows, columns, torch.full_like(rows, 200)]), rows * width + columns


def colours(image):
    """Undo the normalisation."""
    scaled = image * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
    return (scaled * 255).round().long()


def normalised(image):
    """The definition, pixel by pixel in float64."""
    result = torch.empty(image.shape, dtype=torch.float64)
    for channel in range(3):
        for row in range(image.shape[1]):
            for column in range(image.shape[2]):
                value = int(image[channel, row, column]) / 255
                result[channel, row, column] = (value - MEAN[channel]) / STD[channel]
    return result.float()


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield


def test_eval_normalises_and_keeps_the_size():
    image = photo(3, 4)
    mask = torch.tensor([[0, 1, 2, 255]] * 3, dtype=torch.uint8)
    result, labels = EvalTransform(MEAN, STD)(image, mask)
    torch.testing.assert_close(result, normalised(image))
    assert result.dtype == torch.float32 and labels.dtype == torch.int64
    assert labels.tolist() == mask.tolist()
    assert EvalTransform(MEAN, STD)(image)[1] is None


@pytest.mark.parametrize(
    ("size", "long_side", "expected"),
    [((9, 12), 24, (18, 24)), ((12, 9), 4, (4, 3)), ((2, 400), 40, (1, 40)), ((5, 5), 7, (7, 7))],
)
def test_eval_scales_the_longer_side(size, long_side, expected):
    image, mask = EvalTransform(MEAN, STD, long_side)(photo(*size), torch.zeros(size).byte())
    assert image.shape[1:] == mask.shape == expected


def test_train_at_full_size_only_normalises():
    image, mask = coordinates(8, 8)
    result, labels = train(8, (8, 8))(image, mask)
    torch.testing.assert_close(result, normalised(image))
    assert labels.tolist() == mask.tolist()


def test_inputs_are_left_as_they_were():
    image, mask = coordinates(8, 12)
    kept = image.clone(), mask.clone()
    train(8, (8, 16), jitter=0.5, flip=True)(image, mask)
    assert torch.equal(image, kept[0]) and torch.equal(mask, kept[1])


@pytest.mark.parametrize("flip", [False, True])
def test_crop_and_flip_move_photo_and_mask_alike(flip):
    image, mask = coordinates(10, 14)
    transform = train(6, (14, 14), flip=flip)
    corners, mirrored = set(), 0
    for _ in range(300):
        result, labels = transform(image, mask)
        red, green, _ = colours(result)
        assert torch.equal(red * 14 + green, labels)
        step = int(green[0, 1] - green[0, 0])
        assert step in (1, -1)
        mirrored += step == -1
        corners.add((int(red.min()), int(green.min())))
    assert corners == {(row, column) for row in range(5) for column in range(9)}
    # 300 fair coins: 150 +- 3.5 standard deviations of 8.7.
    assert (120 < mirrored < 180) if flip else mirrored == 0


def test_smaller_photo_is_surrounded_by_zeros_at_a_random_offset():
    image, mask = coordinates(3, 5)
    corners = set()
    for _ in range(200):
        result, labels = train(7, (5, 5))(image, mask)
        inside = labels != 255
        rows, columns = torch.nonzero(inside, as_tuple=True)
        top, left = int(rows.min()), int(columns.min())
        corners.add((top, left))
        assert torch.equal(labels[top : top + 3, left : left + 5], mask.long())
        assert int(inside.sum()) == 15
        assert not result[:, ~inside].any()
        torch.testing.assert_close(result[:, top : top + 3, left : left + 5], normalised(image))
    assert corners == {(row, column) for row in range(5) for column in range(3)}


def test_photo_may_be_padded_on_one_side_and_cropped_on_the_other():
    result, labels = train(6, (12, 12))(*coordinates(3, 12))
    assert result.shape == (3, 6, 6)
    assert int((labels != 255).sum()) == 18


def test_longer_side_covers_its_closed_range():
    image = torch.full((3, 4, 8), 255, dtype=torch.uint8)
    sizes = set()
    for _ in range(200):
        result, _ = train(16, (6, 10))(image)
        inside = result[0] != 0
        sizes.add((int(inside.any(1).sum()), int(inside.any(0).sum())))
    assert sizes == {(round(side / 2), side) for side in range(6, 11)}


@pytest.mark.parametrize("side", [6, 12, 18, 31])
def test_mask_stays_on_the_photo_when_scaled(side):
    """A vertical edge in the middle stays in the middle of both."""
    image = torch.zeros(3, 12, 12, dtype=torch.uint8)
    image[:, :, 6:] = 255
    mask = (image[0] > 0).byte()
    result, labels = EvalTransform(MEAN, STD, side)(image, mask)
    bright = colours(result)[0] > 127
    assert set(labels.unique().tolist()) == {0, 1}
    columns = [column for column in range(side) if column != side // 2 or side % 2 == 0]
    assert torch.equal(bright[:, columns], labels[:, columns].bool())


def test_mask_takes_the_pixel_at_the_centre_of_each_step():
    mask = torch.arange(12, dtype=torch.uint8).expand(12, 12)
    labels = EvalTransform(MEAN, STD, 4)(photo(12, 12), mask)[1]
    assert labels[0].tolist() == [1, 4, 7, 10]


def test_mask_keeps_only_its_labels():
    mask = torch.tensor([[0, 7], [20, 255]], dtype=torch.uint8).repeat(6, 6)
    for _ in range(20):
        labels = train(8, (5, 30))(photo(12, 12), mask)[1]
        assert set(labels.unique().tolist()) <= {0, 7, 20, 255}


@pytest.mark.parametrize("jitter", [0.3, (0.3, 0.3, 0.3, 0.1), [0.3, 0.0, 0.0, 0.0]])
def test_jitter_changes_colours_within_bounds_but_not_the_mask(jitter):
    image, mask = photo(12, 12), coordinates(12, 12)[1]
    transform = train(12, (12, 12), jitter=jitter)
    first, labels = transform(image, mask)
    second, _ = transform(image, mask)
    assert not torch.equal(first, second)
    assert torch.equal(labels, mask.long())
    assert colours(first).min() >= 0 and colours(first).max() <= 255


def test_brightness_is_a_factor_within_its_range():
    image = torch.full((3, 8, 8), 100, dtype=torch.uint8)
    transform = train(8, (8, 8), jitter=(0.3, 0, 0, 0))
    values = [int(colours(transform(image)[0])[0, 0, 0]) for _ in range(300)]
    assert 69 <= min(values) < 75 and 125 < max(values) <= 130


def test_one_jitter_number_leaves_hue_alone():
    image = torch.zeros(3, 4, 4, dtype=torch.uint8)
    image[0] = 200
    for _ in range(20):
        red, green, blue = colours(train(4, (4, 4), jitter=0.3)(image)[0])[:, 0, 0].tolist()
        assert red > green and abs(green - blue) <= 1


def test_same_seed_gives_the_same_view():
    transform = train(8, (6, 20), jitter=(0.3, 0.3, 0.3, 0.1), flip=True)
    views = []
    for seed in (1, 1, 2):
        torch.default_generator.manual_seed(seed)
        views.append(transform(photo())[0])
    assert torch.equal(views[0], views[1]) and not torch.equal(views[0], views[2])


def test_mask_does_not_change_the_view():
    transform = train(8, (6, 20), jitter=0.3, flip=True)
    views = []
    for mask in (None, torch.zeros(9, 12, dtype=torch.uint8)):
        torch.default_generator.manual_seed(3)
        views.append(transform(photo(), mask)[0])
    assert torch.equal(views[0], views[1])


def test_constant_photo_stays_finite():
    result, _ = train(8, (6, 20), jitter=(0.3, 0.3, 0.3, 0.1))(torch.zeros(3, 1, 1).byte())
    assert result.isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop_size": 0}, "crop_size must be at least 1, got 0"),
        ({"long_side": (9, 8)}, r"long_side must be .* got \(9, 8\)"),
        ({"long_side": (0, 8)}, "long_side"),
        ({"jitter": (0.1, 0.2)}, "jitter must be one number or four"),
        ({"mean": (0.5,)}, "mean and std"),
        ({"std": (0.5, 0.0, 0.5)}, "std > 0"),
    ],
)
def test_meaningless_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        train(**options)


def test_meaningless_eval_settings_are_refused():
    with pytest.raises(ValueError, match="long_side"):
        EvalTransform(MEAN, STD, 0)


@pytest.mark.parametrize("transform", [train(), EvalTransform(MEAN, STD)])
def test_inputs_of_another_kind_are_refused(transform):
    for image in (torch.zeros(3, 4, 4), photo()[0], photo()[:1]):
        with pytest.raises(ValueError, match=r"image must be uint8 \(3, H, W\)"):
            transform(image)
    with pytest.raises(ValueError, match=r"as torch\.Tensor, got numpy\.ndarray"):
        transform(photo().numpy())
    for mask in (torch.zeros(9, 12), torch.zeros(9, 11, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="mask must be uint8 of the image's size"):
            transform(photo(), mask)


@pytest.mark.data
def test_real_photo_and_mask_stay_together(shared_data):
    root = shared_data / "msrc"
    image = read_image(root / "JPEGImages" / "msrc_02_01.jpg")
    mask = read_mask(root / "SegmentationClass" / "msrc_02_01.png")
    result, labels = train(64, (max(mask.shape), max(mask.shape)))(image, mask)
    crop = colours(result)
    # Where the crop's corner of 6 x 6 pixels lies in the photo; it must be one place.
    windows = image.unfold(1, 6, 1).unfold(2, 6, 1)
    same = (windows == crop[:, None, None, :6, :6]).all(dim=4).all(dim=3).all(dim=0)
    ((row, column),) = torch.nonzero(same).tolist()
    assert torch.equal(image[:, row : row + 64, column : column + 64].long(), crop)
    assert torch.equal(mask[row : row + 64, column : column + 64].long(), labels)


def test_saliency_goes_with_the_photo():
    """Red holds what the saliency map holds: wherever red comes from, saliency does too."""
    transform = train(crop_size=10, long_side=(7, 20), flip=True)
    for seed in range(10):
        image = photo(seed=seed)
        saliency = image[:1].float() / 255
        torch.manual_seed(seed)
        crop, labels, salient = transform.joint(image, None, saliency)
        assert labels is None and salient.shape == (1, 10, 10)
        red = crop[:1] * STD[0] + MEAN[0]
        shown = ~(crop == 0).all(0, keepdim=True)
        # The photo is scaled in 8 bits, the map is not.
        assert ((red - salient)[shown].abs() < 0.006).all()
        assert (salient[~shown] == 0).all()
        torch.manual_seed(seed)
        assert torch.equal(transform(image, None)[0], crop)


def test_labels_around_a_small_photo_can_be_background():
    mask = torch.ones(4, 4, dtype=torch.uint8)
    image = photo(4, 4)
    for fill in (255, 0):
        _, labels = train(crop_size=8, long_side=(4, 4), mask_fill=fill)(image, mask)
        assert labels.unique().tolist() == sorted({1, fill})


def test_photos_are_scaled_by_a_factor_of_their_own_size():
    seen = set()
    transform = TrainTransform(40, scale_range=(0.5, 1.5), jitter=0, flip=False, mean=MEAN, std=STD)
    for seed in range(300):
        torch.default_generator.manual_seed(seed)
        _, labels = transform(photo(10, 20), torch.ones(10, 20, dtype=torch.uint8))
        placed = labels == 1
        seen.add((int(placed.any(1).sum()), int(placed.any(0).sum())))
    assert {width for _, width in seen} == set(range(10, 31))
    assert all(height == round(width / 2) for height, width in seen)


def test_a_factor_never_makes_a_photo_vanish():
    transform = TrainTransform(4, scale_range=(0.4, 0.4), mean=MEAN, std=STD)
    _, labels = transform(photo(5, 1), torch.ones(5, 1, dtype=torch.uint8))
    assert (labels == 1).sum() == 2


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "one of long_side and scale_range must be given"),
        ({"long_side": (4, 8), "scale_range": (1, 2)}, "one of long_side and scale_range"),
        ({"scale_range": (1.5, 0.5)}, "scale_range must be an ascending range above 0"),
        ({"scale_range": (0, 1)}, "scale_range must be an ascending range above 0"),
        ({"scale_range": (1,)}, "scale_range must be an ascending range above 0"),
    ],
)
def test_ranges_of_scales_that_are_none(options, text):
    with pytest.raises(ValueError, match=text):
        TrainTransform(8, mean=MEAN, std=STD, **options)
