"""The contrasts against their formulas, pair by pair, in float64."""

from __future__ import annotations

import math

import pytest
import torch

from dscnet.context import PixelGroups
from dscnet.losses import contrastive
from dscnet.losses.contrastive import (
    group_contrast,
    group_pairs,
    pixel_contrast,
    semantic_contrast,
    soft_targets,
)


def cosine(x, y):
    dot = sum(a * b for a, b in zip(x, y, strict=True))
    return dot / math.sqrt(sum(a * a for a in x) * sum(b * b for b in y))


def info_nce(positive, negatives):
    """-log of Eq. (3)'s fraction."""
    return -math.log(
        math.exp(positive) / (math.exp(positive) + sum(math.exp(s) for s in negatives))
    )


def mean(values):
    return sum(values) / len(values)


def naive_group_contrast(embeddings, categories, sources, temperature, memory=(), images=None):
    """Eq. (6) and (7) by loops; the memory is a list of (embedding, category)."""
    rows = embeddings.tolist()
    images = sources if images is None else images
    per_image = {}
    for m, (anchor, category) in enumerate(zip(rows, categories, strict=True)):
        if category < 0:
            continue
        positives, negatives = [], []
        for n, other in enumerate(rows):
            similarity = cosine(anchor, other) / temperature if categories[n] >= 0 else None
            if categories[n] == category and sources[n] != sources[m]:
                positives.append(similarity)
            elif categories[n] >= 0 and categories[n] != category:
                negatives.append(similarity)
        for other, label in memory:
            similarity = cosine(anchor, other) / temperature
            (positives if label == category else negatives).append(similarity)
        if positives:
            term = mean([info_nce(s, negatives) for s in positives])
            per_image.setdefault(images[m], []).append(term)
    return mean([mean(terms) for terms in per_image.values()]) if per_image else 0.0


def random_groups(generator, num=14, dim=5, labels=4, sources=5):
    embeddings = torch.randn(num, dim, generator=generator, dtype=torch.float64)
    categories = torch.randint(-1, labels, (num,), generator=generator)
    return embeddings, categories, torch.randint(0, sources, (num,), generator=generator)


@pytest.mark.parametrize("with_memory", [False, True])
@pytest.mark.parametrize("by_image", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_group_contrast_against_loops(with_memory, by_image, seed):
    generator = torch.Generator().manual_seed(seed)
    embeddings, categories, sources = random_groups(generator)
    memory, past = None, []
    if with_memory:
        memory = (
            torch.randn(6, 5, generator=generator, dtype=torch.float64),
            torch.randint(0, 4, (6,), generator=generator),
        )
        past = list(zip(memory[0].tolist(), memory[1].tolist(), strict=True))
    images = sources // 2 if by_image else None
    loss = group_contrast(
        embeddings, categories, sources, temperature=0.3, memory=memory, images=images
    )
    expected = naive_group_contrast(
        embeddings,
        categories.tolist(),
        sources.tolist(),
        0.3,
        past,
        None if images is None else images.tolist(),
    )
    assert expected > 0
    assert float(loss) == pytest.approx(expected)


def test_group_contrast_by_hand():
    # Two images; groups a, c of category 1 are equal, b of category 0 is orthogonal. tau = 1.
    embeddings = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]])
    categories, sources = torch.tensor([1, 0, 1]), torch.tensor([0, 0, 1])
    loss = group_contrast(embeddings, categories, sources, temperature=1.0)
    # b has no positive; a and c: -log(e / (e + 1)).
    assert float(loss) == pytest.approx(math.log(1 + math.exp(-1)))


def test_the_mean_runs_over_groups_of_a_source_then_over_sources():
    # Source 0 has two groups with a positive, source 1 and 2 one each: not a mean over groups.
    embeddings = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [0.8, -0.6]])
    categories, sources = torch.tensor([1, 0, 1, 0]), torch.tensor([0, 0, 1, 2])
    loss = group_contrast(embeddings, categories, sources, temperature=1.0)
    s = (embeddings @ embeddings.mT).tolist()
    t0 = info_nce(s[0][2], [s[0][1], s[0][3]])
    t1 = info_nce(s[1][3], [s[1][0], s[1][2]])
    t2 = info_nce(s[2][0], [s[2][1], s[2][3]])
    t3 = info_nce(s[3][1], [s[3][0], s[3][2]])
    assert float(loss) == pytest.approx(((t0 + t1) / 2 + t2 + t3) / 3)
    joined = group_contrast(
        embeddings, categories, sources, temperature=1.0, images=torch.tensor([0, 0, 0, 1])
    )
    assert float(joined) == pytest.approx(((t0 + t1 + t2) / 3 + t3) / 2)


def test_no_pair_is_positive_and_negative(generator):
    """Eq. (6): g_m and g_n cannot be both; nor may a group be compared with itself."""
    for _ in range(20):
        _, categories, sources = random_groups(generator)
        positive, negative = group_pairs(categories, sources, categories, sources)
        assert not (positive & negative).any()
        assert not (positive | negative).diagonal().any()
        for m, (a, i) in enumerate(zip(categories.tolist(), sources.tolist(), strict=True)):
            for n, (b, j) in enumerate(zip(categories.tolist(), sources.tolist(), strict=True)):
                assert bool(positive[m, n]) == (a >= 0 and a == b and i != j)
                assert bool(negative[m, n]) == (a >= 0 and b >= 0 and a != b)


def test_a_memory_entry_is_a_positive_without_gradient(generator):
    embeddings = torch.randn(2, 3, generator=generator, requires_grad=True)
    past = torch.randn(2, 3, generator=generator, requires_grad=True)
    loss = group_contrast(
        embeddings,
        torch.tensor([1, 2]),
        torch.tensor([0, 0]),
        temperature=0.5,
        memory=(past, torch.tensor([1, 0])),
    )
    loss.backward()
    assert float(loss.detach()) > 0
    assert past.grad is None
    assert embeddings.grad is not None and embeddings.grad[0].abs().sum() > 0


def test_groups_without_category_change_nothing(generator):
    embeddings, categories, sources = random_groups(generator)
    known = categories >= 0
    assert not known.all()
    everything = group_contrast(embeddings, categories, sources, temperature=0.2)
    only = group_contrast(embeddings[known], categories[known], sources[known], temperature=0.2)
    torch.testing.assert_close(everything, only)


def test_order_names_and_lengths_do_not_matter(generator):
    embeddings, categories, sources = random_groups(generator)
    loss = group_contrast(embeddings, categories, sources, temperature=0.2)
    order = torch.randperm(len(embeddings), generator=generator)
    renamed = torch.tensor([3, 0, 2, 1, -1])[categories]
    lengths = torch.rand(len(embeddings), 1, generator=generator, dtype=torch.float64) + 0.5
    other = group_contrast(
        (embeddings * lengths)[order], renamed[order], 7 - sources[order], temperature=0.2
    )
    torch.testing.assert_close(other, loss)


@pytest.mark.parametrize(
    ("categories", "sources"),
    [([1, 2, 0], [0, 1, 2]), ([1, 1, 1], [0, 0, 0]), ([-1, -1, -1], [0, 1, 2]), ([], [])],
)
def test_no_positive_is_a_zero_that_backward_accepts(categories, sources):
    embeddings = torch.ones(len(categories), 4, requires_grad=True)
    loss = group_contrast(
        embeddings,
        torch.tensor(categories, dtype=torch.int64),
        torch.tensor(sources, dtype=torch.int64),
        temperature=0.1,
        memory=(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)),
    )
    loss.backward()
    assert loss.detach().item() == 0
    assert embeddings.grad is not None and (embeddings.grad == 0).all()


def test_only_positives_cost_nothing(generator):
    embeddings = torch.randn(3, 4, generator=generator, requires_grad=True)
    loss = group_contrast(embeddings, torch.ones(3).long(), torch.arange(3), temperature=0.1)
    loss.backward()
    assert loss.detach().item() == 0
    assert embeddings.grad is not None and (embeddings.grad == 0).all()


def test_a_zero_embedding_gives_no_gradient_explosion(generator):
    embeddings = torch.randn(4, 4, generator=generator)
    embeddings[1] = 0
    embeddings.requires_grad_()
    group_contrast(
        embeddings, torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1]), temperature=0.1
    ).backward()
    assert embeddings.grad is not None
    assert embeddings.grad.isfinite().all() and embeddings.grad.abs().max() < 100


def test_group_contrast_gradient(generator):
    embeddings, categories, sources = random_groups(generator, num=7)
    memory = (torch.randn(3, 5, generator=generator).double(), torch.tensor([0, 1, 2]))
    assert torch.autograd.gradcheck(
        lambda e: group_contrast(e, categories, sources, temperature=0.5, memory=memory),
        embeddings.requires_grad_(),
    )


def naive_pixel_contrast(embeddings, labels, temperature):
    pixels = [
        (e, y)
        for e, y in zip(embeddings.flatten(0, 1).tolist(), labels.flatten().tolist(), strict=True)
        if y != 255
    ]
    terms = []
    for i, (anchor, label) in enumerate(pixels):
        scores = [(cosine(anchor, e) / temperature, y, j) for j, (e, y) in enumerate(pixels)]
        positives = [s for s, y, j in scores if y == label and j != i]
        negatives = [s for s, y, _ in scores if y != label]
        if positives:
            terms.append(mean([info_nce(s, negatives) for s in positives]))
    return mean(terms) if terms else 0.0


@pytest.mark.parametrize("max_pairs", [2**24, 40, 1])
def test_pixel_contrast_against_loops_whole_and_in_pieces(max_pairs, generator):
    embeddings = torch.randn(2, 9, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (2, 9), generator=generator)
    labels[0, :3] = 255
    labels[1, 0] = 7  # the only pixel of its label: no positive, a negative of all others
    expected = naive_pixel_contrast(embeddings, labels, 0.4)
    loss = pixel_contrast(embeddings, labels, temperature=0.4, max_pairs=max_pairs)
    assert float(loss) == pytest.approx(expected)
    mapped = pixel_contrast(
        embeddings, labels.reshape(2, 3, 3), temperature=0.4, max_pairs=max_pairs
    )
    assert float(mapped) == pytest.approx(expected)


@pytest.mark.parametrize("max_pairs", [2**24, 10])
def test_pixel_contrast_gradient(max_pairs, generator):
    embeddings = torch.randn(1, 6, 3, generator=generator, dtype=torch.float64)
    labels = torch.tensor([[0, 1, 1, 255, 0, 2]])
    assert torch.autograd.gradcheck(
        lambda e: pixel_contrast(e, labels, temperature=0.5, max_pairs=max_pairs),
        embeddings.requires_grad_(),
    )


@pytest.mark.parametrize("labels", [[255, 255, 255], [0, 1, 2], [255, 0, 255]])
def test_pixel_contrast_without_positives(labels):
    embeddings = torch.ones(1, 3, 2, requires_grad=True)
    loss = pixel_contrast(embeddings, torch.tensor([labels]), temperature=0.1)
    loss.backward()
    assert loss.detach().item() == 0
    assert embeddings.grad is not None and (embeddings.grad == 0).all()


def test_pixel_contrast_is_the_group_contrast_of_single_pixels(generator):
    """Every pixel a group from a source of its own, all in one image: the same function."""
    embeddings = torch.randn(2, 8, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (2, 8), generator=generator)
    pixels = pixel_contrast(embeddings, labels, temperature=0.3)
    groups = group_contrast(
        embeddings.flatten(0, 1),
        labels.flatten(),
        torch.arange(16),
        temperature=0.3,
        images=torch.zeros(16, dtype=torch.int64),
    )
    torch.testing.assert_close(pixels, groups)


def test_semantic_contrast_against_loops(generator):
    logits = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64)
    targets = torch.rand(3, 4, 5, generator=generator, dtype=torch.float64).softmax(-1)
    targets[0, 1:] = 0
    targets[2] = 0
    images = []
    for b in range(3):
        terms = []
        for k in range(4):
            shares, scores = targets[b, k].tolist(), logits[b, k].tolist()
            if sum(shares) > 0:
                terms.append(
                    sum(
                        share * info_nce(scores[label], scores[:label] + scores[label + 1 :])
                        for label, share in enumerate(shares)
                    )
                )
        if terms:
            images.append(mean(terms))
    assert len(images) == 2
    assert float(semantic_contrast(logits, targets)) == pytest.approx(mean(images))
    assert torch.autograd.gradcheck(
        lambda x: semantic_contrast(x, targets), logits.requires_grad_()
    )


def test_semantic_contrast_by_hand():
    logits = torch.tensor([[[0.0, math.log(3.0)]]])
    target = torch.tensor([[[0.0, 1.0]]])
    assert float(semantic_contrast(logits, target)) == pytest.approx(-math.log(0.75))
    soft = torch.tensor([[[0.5, 0.5]]])
    expected = -(math.log(0.25) + math.log(0.75)) / 2
    assert float(semantic_contrast(logits, soft)) == pytest.approx(expected)


def test_semantic_contrast_without_targets():
    logits = torch.ones(1, 2, 3, requires_grad=True)
    loss = semantic_contrast(logits, torch.zeros(1, 2, 3))
    loss.backward()
    assert loss.detach().item() == 0
    assert logits.grad is not None and (logits.grad == 0).all()


def test_label_shares_against_loops(generator):
    labels = torch.randint(0, 4, (6, 12), generator=generator)
    labels[torch.rand(6, 12, generator=generator) < 0.4] = 255
    groups = PixelGroups(torch.randint(0, 3, (6, 12), generator=generator), num_groups=4)
    soft = soft_targets(labels, groups, 5)
    hard = soft_targets(labels.reshape(6, 3, 4), groups, 5, hard=True)
    dropped = 0
    for b in range(6):
        for k in range(4):
            members = labels[b][groups.ids[b] == k].tolist()
            kept = [y for y in members if y != 255]
            if not kept or 2 * len(kept) < len(members):
                dropped += 1
                assert (soft[b, k] == 0).all() and (hard[b, k] == 0).all()
                continue
            counts = [kept.count(label) for label in range(5)]
            assert soft[b, k].tolist() == pytest.approx([c / len(kept) for c in counts])
            assert hard[b, k].tolist() == [
                float(label == counts.index(max(counts))) for label in range(5)
            ]
    assert 6 < dropped < 20  # the empty fourth group of every image, and some mostly ignored ones


def test_label_shares_by_hand():
    groups = PixelGroups(torch.tensor([[0, 0, 0, 0, 1, 1, 1]]), num_groups=2)
    labels = torch.tensor([[2, 2, 0, 255, 255, 255, 1]])
    shares = soft_targets(labels, groups, 3)
    torch.testing.assert_close(shares, torch.tensor([[[1 / 3, 0, 2 / 3], [0, 0, 0]]]))
    assert soft_targets(labels, groups, 3, hard=True).tolist() == [[[0, 0, 1], [0, 0, 0]]]


def test_bf16_and_autocast_compute_in_float32(generator):
    embeddings = torch.randn(8, 300, generator=generator).bfloat16()
    categories, sources = torch.arange(8) % 3, torch.arange(8) // 2
    labels = categories[None]
    logits = torch.randn(1, 8, 3, generator=generator).bfloat16()
    targets = torch.nn.functional.one_hot(labels, 3).float()

    def losses(rows, scores):
        return (
            group_contrast(rows, categories, sources, temperature=0.05),
            pixel_contrast(rows[None], labels, temperature=0.05),
            semantic_contrast(scores, targets),
        )

    exact = losses(embeddings.float(), logits.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = losses(embeddings, logits)
    for value, expected in zip(cast, exact, strict=True):
        assert value.dtype == torch.float32 and value.isfinite()
        torch.testing.assert_close(value, expected)


def test_extreme_similarities_stay_finite():
    embeddings = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    embeddings.requires_grad_()
    loss = group_contrast(
        embeddings, torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1]), temperature=1e-3
    )
    loss.backward()
    assert float(loss.detach()) == pytest.approx(2000 + math.log(1), rel=1e-3)
    assert embeddings.grad is not None and embeddings.grad.isfinite().all()


IDS = torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: group_contrast(torch.zeros(2, 3), IDS, IDS, temperature=0), "temperature must"),
        (lambda: group_contrast(torch.zeros(3, 3), IDS, IDS, temperature=1), "embeddings must"),
        (lambda: group_contrast(torch.zeros(2, 3, 1), IDS, IDS, temperature=1), "embeddings must"),
        (lambda: group_contrast(torch.zeros(2, 3), IDS, IDS[:1], temperature=1), "sources must"),
        (
            lambda: group_contrast(
                torch.zeros(2, 3), IDS, IDS, temperature=1, memory=(torch.zeros(1, 3), IDS)
            ),
            "memory must",
        ),
        (lambda: pixel_contrast(torch.zeros(1, 2, 3), IDS[None], temperature=-1), "temperature"),
        (lambda: pixel_contrast(torch.zeros(1, 3, 3), IDS[None], temperature=1), "embeddings"),
        (lambda: pixel_contrast(torch.zeros(1, 2, 3), IDS[None] - 1, temperature=1), "labels must"),
        (
            lambda: pixel_contrast(torch.zeros(1, 2, 3), IDS[None], temperature=1, max_pairs=0),
            "max_pairs",
        ),
        (lambda: semantic_contrast(torch.zeros(1, 2, 3), torch.zeros(1, 3, 3)), "must both be"),
        (
            lambda: semantic_contrast(torch.zeros(1, 1, 2), torch.tensor([[[0.9, 0.9]]])),
            "sum to 1",
        ),
        (lambda: soft_targets(IDS[None], PixelGroups(torch.zeros(1, 3).long(), 1), 2), "pixels"),
        (
            lambda: soft_targets(IDS[None], PixelGroups(torch.zeros(1, 2).long(), 1), 1),
            r"labels must be in \[0, 1\) or 255",
        ),
    ],
)
def test_wrong_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(("max_pairs", "pieces"), [(2**24, 0), (36, 0), (18, 2), (6, 6), (1, 6)])
def test_pairs_beyond_the_most_are_computed_again_in_pieces(max_pairs, pieces, monkeypatch):
    """Six pixels; a single piece has no need to be computed twice."""
    taken, real = [], contrastive.checkpoint

    def counted(function, piece, *rest, **options):
        taken.append(len(piece))
        return real(function, piece, *rest, **options)

    monkeypatch.setattr(contrastive, "checkpoint", counted)
    labels = torch.tensor([[0, 0, 0, 1, 1, 1]])
    pixel_contrast(torch.eye(6)[None], labels, temperature=0.5, max_pairs=max_pairs)
    assert taken == [6 // pieces] * pieces if pieces else taken == []
