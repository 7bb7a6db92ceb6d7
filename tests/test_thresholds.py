from __future__ import annotations

import math
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from dscnet.config import Config, Criterion, LabelConfig, MethodConfig, ModelConfig
from dscnet.labels import thresholds
from dscnet.labels.thresholds import BINS, CRITERIA, ScoreCounts, otsu_score
from dscnet.labels.thresholds import suggested_score as suggest


def photos(count=6, seed=0, classes=(0, 3)):
    """Maps in hundredths, their second maps and saliency: blobs on a weak background."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        cam = rng.integers(0, 40, (len(classes), 9, 11)) / 100 + 0.002
        cam[0, :4, :5] += 0.5
        cam[-1, 5:, 6:] += 0.4
        second = np.clip(cam + rng.normal(0, 0.05, cam.shape), 0, 1)
        salient = (cam.max(0) > 0.45).astype(float)
        made.append((cam, list(classes), second, salient))
    return made


def of_scales(cam, second):
    """Maps of three scales."""
    return np.stack([cam, second, np.clip(cam + 0.1 * second, 0, 1)])


def counted(made, *, seconds=True, saliency=True, scales=True):
    counts = ScoreCounts()
    for cam, classes, second, salient in made:
        counts.add(
            cam,
            classes,
            second=second if seconds else None,
            saliency=salient if saliency else None,
            scales=of_scales(cam, second) if scales and second is not None else None,
        )
    return counts


def labels_at(cam, classes, score):
    """Labels at a background score that wins ties, pixel by pixel."""
    height, width = cam.shape[1:]
    out = np.zeros((height, width), dtype=int)
    for y in range(height):
        for x in range(width):
            best = int(np.argmax(cam[:, y, x]))
            # Scores lie between the hundredths, so that rounding decides nothing.
            if cam[best, y, x] >= score:
                out[y, x] = classes[best] + 1
    return out


def best_by_loops(value):
    values = [value(index / BINS) for index in range(BINS)]
    largest = [index for index in range(BINS) if values[index] == max(values)]
    return largest[len(largest) // 2] / BINS


def test_tags_against_loops():
    made = photos()

    def entropy(score):
        total = 0.0
        for cam, classes, _, _ in made:
            labels = labels_at(cam, classes, score)
            for label in (0, *(c + 1 for c in classes)):
                share = (labels == label).mean()
                total -= share * math.log(share) if share else 0.0
        return round(total, 9)

    assert suggest(counted(made), "tags") == best_by_loops(entropy)


def test_stability_against_loops():
    made = photos()

    def overlap(score):
        if score in (0, 0.99):
            return 0.0
        now = np.stack([labels_at(cam, classes, score) for cam, classes, _, _ in made])
        later = np.stack([labels_at(cam, classes, score + 0.01) for cam, classes, _, _ in made])
        ious = {
            label: ((now == label) & (later == label)).sum()
            / max(((now == label) | (later == label)).sum(), 1)
            for label in (0, 1, 4)
        }
        return round(ious[0] + (ious[1] + ious[4]) / 2, 9)

    assert suggest(counted(made), "stability") == best_by_loops(overlap)


@pytest.mark.parametrize("criterion", ["agreement", "saliency"])
def test_kappa_against_loops(criterion):
    made = photos()

    def kappa(score):
        one, other = [], []
        for cam, classes, second, salient in made:
            one.append(labels_at(cam, classes, score) > 0)
            against = labels_at(second, classes, score) > 0
            other.append(against if criterion == "agreement" else salient > 0.5)
        one, other = np.stack(one), np.stack(other)
        p, q = one.mean(), other.mean()
        chance = p * q + (1 - p) * (1 - q)
        return round(((one == other).mean() - chance) / (1 - chance), 9) if chance < 1 else 0.0

    assert suggest(counted(made), criterion) == best_by_loops(kappa)


def test_peaks_alone_do_not_agree():
    """Two maps that share their few highest pixels and little else."""
    rng = np.random.default_rng(0)
    first, second = rng.uniform(0, 0.9, (2, 1, 50, 50))
    second[:, :25] = first[:, :25]
    few = ScoreCounts()
    few.add(first, [0], second=second)
    chosen = suggest(few, "agreement")
    first[0, 0, :3] = second[0, 0, :3] = 1.0
    peaked = ScoreCounts()
    peaked.add(first, [0], second=second)
    assert suggest(peaked, "agreement") == chosen < 0.9


def cohens_kappa(one, other):
    """Agreement beyond chance of two labellings, pixel by pixel; 0 where it is not defined."""
    pairs = list(zip(one, other, strict=True))
    agreed = sum(a == b for a, b in pairs) / len(pairs)
    p, q = sum(one) / len(pairs), sum(other) / len(pairs)
    chance = p * q + (1 - p) * (1 - q)
    return (agreed - chance) / (1 - chance) if chance < 1 else 0.0


def foreground_at(maps, score):
    """Whether the strongest class of each pixel reaches a score, in bins as maps are counted."""
    return [int(value * BINS) >= round(score * BINS) for value in maps.max(0).ravel()]


def test_scales_against_loops():
    made = photos()

    def mean_kappa(score):
        kappas = []
        for one, other in ((0, 1), (0, 2), (1, 2)):
            labels = [[], []]
            for cam, _, second, _ in made:
                maps = of_scales(cam, second)
                labels[0] += foreground_at(maps[one], score)
                labels[1] += foreground_at(maps[other], score)
            kappas.append(cohens_kappa(*labels))
        return round(sum(kappas) / 3, 9)

    assert suggest(counted(made), "scales") == best_by_loops(mean_kappa)


def test_scales_by_hand():
    """Four pixels of two scales: at 0.5 both see the same two, elsewhere they differ."""
    one = np.array([[[0.105, 0.205, 0.605, 0.905]]])
    other = np.array([[[0.305, 0.405, 0.705, 0.805]]])
    counts = ScoreCounts()
    counts.add(one, [0], scales=np.stack([one, other]))
    assert 0.4 < suggest(counts, "scales") <= 0.61
    assert cohens_kappa([0, 0, 1, 1], [0, 1, 1, 1]) == pytest.approx(0.5)
    at_035 = thresholds._kappa(
        *(thresholds._above(counts.shared_scales[i, j]) for i, j in ((0, 1), (0, 0), (1, 1)))
    )[35]
    assert at_035 == pytest.approx(0.5)


def test_scales_need_two_and_the_same_number_in_every_photo():
    cam, classes, second, _ = photos(1)[0]
    for chosen in ([0], [], [0, 1]):
        counts = ScoreCounts()
        counts.add(cam, classes, scales=of_scales(cam, second)[chosen])
        assert (suggest(counts, "scales") is None) == (len(chosen) < 2)
    counts.add(cam, classes, scales=of_scales(cam, second))
    assert suggest(counts, "scales") is None
    counts = ScoreCounts()
    counts.add(cam, classes)
    counts.add(cam, classes, scales=of_scales(cam, second))
    assert suggest(counts, "scales") is None


def test_class_otsu_is_the_median_of_the_classes():
    made = photos()
    counts = counted(made)
    own = [otsu_score(counts.by_label[label]) for label in (1, 4)]
    assert suggest(counts, "class_otsu") == pytest.approx(sum(own) / 2)


@pytest.mark.parametrize("criterion", list(CRITERIA))
def test_a_clear_gap_is_found(criterion):
    """Scores of objects and of the rest lie apart: every criterion cuts between them."""
    cam = np.full((1, 10, 10), 0.105)
    cam[0, :5] = 0.805
    cam[0, 0, 0], cam[0, 9, 9] = 0.995, 0.005
    salient = (cam[0] > 0.5).astype(float)
    score = suggest(counted([(cam, [7], cam, salient)]), criterion)
    assert 0.105 < score < 0.81


@pytest.mark.parametrize("criterion", list(CRITERIA))
def test_nothing_depends_on_the_order_of_classes_or_photos(criterion):
    made = photos()
    turned = [(cam[::-1], classes[::-1], s[::-1], m) for cam, classes, s, m in reversed(made)]
    assert suggest(counted(made), criterion) == suggest(counted(turned), criterion)


@pytest.mark.parametrize("criterion", list(CRITERIA))
@pytest.mark.parametrize("made", [[], [(np.zeros((0, 4, 4)), [], None, None)]])
def test_without_classes_nothing_is_suggested(criterion, made):
    assert suggest(counted(made), criterion) is None


@pytest.mark.parametrize("criterion", list(CRITERIA))
def test_constant_maps_suggest_nothing_or_a_score(criterion):
    score = suggest(counted([(np.zeros((2, 3, 3)), [0, 1], np.zeros((2, 3, 3)), None)]), criterion)
    assert score is None or 0 <= score <= 1


@pytest.mark.parametrize("num_classes", [1, 2, 20, 80])
@pytest.mark.parametrize("criterion", list(CRITERIA))
def test_any_number_of_classes(num_classes, criterion):
    made = [photo for c in range(num_classes) for photo in photos(1, seed=c, classes=(c,))]
    assert 0 < suggest(counted(made), criterion) < 1


def test_photos_without_tags_say_nothing():
    made = photos()
    empty = (np.zeros((0, 9, 11)), [], None, None)
    for criterion in CRITERIA:
        assert suggest(counted([*made, empty]), criterion) == suggest(counted(made), criterion)


def test_what_a_criterion_lacks():
    counts = counted(photos(), seconds=False, saliency=False, scales=False)
    assert suggest(counts, "agreement") is None
    assert suggest(counts, "scales") is None
    assert suggest(counts, "saliency") is None


def test_names_of_the_settings_are_the_criteria():
    assert set(get_args(Criterion)) == {"auto", *CRITERIA}
    with pytest.raises(ValueError, match="criterion must be one of otsu"):
        suggest(ScoreCounts(), "magic")


def test_what_auto_stands_for():
    config = Config()
    assert config.criterion == "agreement"
    assert replace(config, label=LabelConfig(bg_score=0.3)).criterion is None
    assert replace(config, label=LabelConfig(bg_score="tags")).criterion == "tags"
    assert replace(config, label=LabelConfig(cams="elsewhere")).criterion == "class_otsu"


@pytest.mark.parametrize(
    ("model", "variant", "criterion"),
    [
        ("seam", "baseline", "agreement"),
        ("seam", "M4", "agreement"),
        ("cam", "M4", "agreement"),
        ("cam", "baseline", "class_otsu"),  # nothing refines these maps
        ("auxsegnet", "M4", "class_otsu"),
    ],
)
def test_auto_by_network(model, variant, criterion):
    config = Config(model=ModelConfig(name=model), method=MethodConfig(variant=variant))
    assert config.criterion == criterion


def test_no_criterion_can_open_a_file():
    assert not {"Path", "open", "read_mask", "Image"} & set(vars(thresholds))


def test_otsu_against_the_definition():
    counts = np.array([5, 9, 4, 1, 0, 2, 6, 8, 3, 1])
    centres = [(index + 0.5) / 10 for index in range(10)]
    spreads = []
    for cut in range(1, 10):
        low, high = counts[:cut], counts[cut:]
        mean_low = sum(c * x for c, x in zip(low, centres[:cut], strict=True)) / low.sum()
        mean_high = sum(c * x for c, x in zip(high, centres[cut:], strict=True)) / high.sum()
        spreads.append(low.sum() * high.sum() * (mean_low - mean_high) ** 2)
    assert otsu_score(counts) == (int(np.argmax(spreads)) + 1) / 10


def test_otsu_parts_two_groups_and_needs_two():
    counts = np.zeros(100, dtype=np.int64)
    counts[[10, 80]] = 50
    assert 0.1 < otsu_score(counts) <= 0.8
    counts[80] = 0
    assert otsu_score(counts) is None


@pytest.mark.parametrize(("peak", "counts_"), [(0.03, True), (0.005, False)])
def test_agreement_reads_scores_with_a_hundredth_of_the_pixels(peak, counts_):
    """Two maps that agree on their peaks alone, which are a larger or a smaller part of them."""
    rng = np.random.default_rng(0)
    first, second = rng.uniform(0, 0.5, (2, 1, 1, 4000))
    first[..., : int(4000 * peak)] = second[..., : int(4000 * peak)] = 0.95
    counts = ScoreCounts()
    counts.add(first, [0], second=second)
    assert (suggest(counts, "agreement") > 0.49) == counts_


def test_pixels_are_counted_once_by_saliency():
    counts = ScoreCounts()
    cam = np.array([[[0.105, 0.305, 0.305, 0.905]]])
    counts.add(cam, [0], saliency=np.array([[0.0, 0.5, 0.51, 1.0]]))
    salient, rest = counts.salient
    assert {int(index): int(salient[index]) for index in salient.nonzero()[0]} == {30: 1, 90: 1}
    assert {int(index): int(rest[index]) for index in rest.nonzero()[0]} == {10: 1, 30: 1}


def test_the_highest_score_is_never_the_stable_one():
    """One score throughout: above it nothing changes any more, and the middle of that counts."""
    counts = ScoreCounts()
    counts.add(np.full((1, 4, 5), 0.015), [0])
    assert suggest(counts, "stability") == 0.5
