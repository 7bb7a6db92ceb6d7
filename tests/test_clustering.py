"""k-means against a plain loop, and the cases that break k-means."""

from __future__ import annotations

import pytest
import torch

from dscnet.context import clustering, kmeans


def naive_kmeans(points, centres, max_iter=50):
    """Lloyd's algorithm on lists: ties to the lower group, an empty group keeps its centre."""
    centres = [list(centre) for centre in centres]
    ids = None
    for _ in range(max_iter):
        distances = [
            [sum((x - c) ** 2 for x, c in zip(p, centre, strict=True)) for centre in centres]
            for p in points
        ]
        new = [min(range(len(centres)), key=row.__getitem__) for row in distances]
        if new == ids:
            break
        ids = new
        for k in range(len(centres)):
            members = [p for p, i in zip(points, ids, strict=True) if i == k]
            if members:
                centres[k] = [sum(column) / len(members) for column in zip(*members, strict=True)]
    return ids


def inertia(points, ids):
    """Sum of squared distances to the group means."""
    total = 0.0
    for group in set(ids.tolist()):
        members = points[ids == group]
        total += float((members - members.mean(0)).pow(2).sum())
    return total


def test_matches_the_naive_loop_with_a_different_count_for_every_image(generator):
    points = torch.randn(4, 23, 3, generator=generator, dtype=torch.float64)
    starts = torch.randn(4, 4, 3, generator=generator, dtype=torch.float64)
    counts = torch.tensor([1, 4, 2, 3])
    ids = kmeans(points, counts, starts=starts, max_iter=50)
    for b, count in enumerate(counts.tolist()):
        expected = naive_kmeans(points[b].tolist(), starts[b, :count].tolist())
        assert ids[b].tolist() == expected
        assert count == 1 or len(set(expected)) > 1


def test_an_empty_group_keeps_its_centre_by_hand():
    points = torch.tensor([[[0.0], [1.0], [9.0], [10.0]]])
    # All points are nearest to 8, whose mean becomes 5; a centre kept at 20 is farther from each.
    ids = kmeans(points, torch.tensor([2]), starts=torch.tensor([[[8.0], [20.0]]]))
    assert ids.tolist() == [[0, 0, 0, 0]]
    # Again all are nearest to 8 at first, but a centre kept at 12.5 then wins 9 and 10.
    ids = kmeans(points, torch.tensor([2]), starts=torch.tensor([[[8.0], [12.5]]]))
    assert ids.tolist() == [[0, 0, 1, 1]]


def test_layout_of_the_points_does_not_matter(generator):
    points = torch.randn(2, 5, 30, generator=generator).mT
    starts = points[:, :3].clone()
    counts = torch.tensor([3, 2])
    ids = kmeans(points, counts, starts=starts)
    assert torch.equal(ids, kmeans(points.contiguous(), counts, starts=starts))


def test_random_starts_find_separate_clusters_and_repeat_with_their_seed(generator):
    centres = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0], [9.0, 9.0]])
    truth = torch.arange(40) % 4
    points = (centres[truth] + 0.1 * torch.randn(40, 2, generator=generator))[None]
    first, second = (
        kmeans(points, torch.tensor([4]), generator=torch.Generator().manual_seed(5))
        for _ in range(2)
    )
    assert torch.equal(first, second)
    assert len(set(zip(truth.tolist(), first[0].tolist(), strict=True))) == 4


def test_restarts_keep_the_best_of_each_image(generator, monkeypatch):
    points = torch.randn(6, 30, 2, generator=generator)
    counts = torch.full((6,), 5)
    drawn = []
    draw = clustering._plus_plus

    def noted(*arguments):
        drawn.append(draw(*arguments))
        return drawn[-1]

    monkeypatch.setattr(clustering, "_plus_plus", noted)
    best = kmeans(points, counts, restarts=4, generator=torch.Generator().manual_seed(1))
    (starts,) = drawn
    assert starts.shape == (6, 4, 5, 2)
    runs = [kmeans(points, counts, starts=one) for one in starts.unbind(1)]
    for b in range(6):
        options = [inertia(points[b], ids[b]) for ids in runs]
        assert inertia(points[b], best[b]) == pytest.approx(min(options), rel=1e-5)
    assert any(not torch.equal(best, ids) for ids in runs)


def test_plus_plus_draws_in_proportion_to_the_squared_distance():
    # From 0 (or 1) the far point 10 is drawn as the second centre with probability near one, which
    # a uniform draw would do a third of the time.
    points = torch.tensor([[[0.0], [1.0], [10.0]]]).expand(200, -1, -1)
    ids = kmeans(
        points,
        torch.full((200,), 2),
        restarts=1,
        max_iter=1,
        generator=torch.Generator().manual_seed(0),
    )
    split = (ids[:, 0] == ids[:, 1]) & (ids[:, 0] != ids[:, 2])
    assert split.float().mean() > 0.95


def test_more_groups_than_points_and_equal_points(generator):
    points = torch.randn(1, 2, 3, generator=generator)
    ids = kmeans(points, torch.tensor([5]), generator=generator)
    assert ids[0].unique().numel() == 2
    same = torch.ones(2, 7, 3)
    ids = kmeans(same, torch.tensor([3, 1]), generator=generator)
    assert [row.unique().numel() for row in ids] == [1, 1]


def test_one_group_takes_all(generator):
    points = torch.randn(2, 9, 3, generator=generator)
    assert kmeans(points, torch.tensor([1, 1]), generator=generator).eq(0).all()


def test_no_gradient_and_the_same_groups_under_autocast(generator):
    points = torch.randn(2, 50, 16, generator=generator).requires_grad_()
    starts = points.detach()[:, :3]
    counts = torch.tensor([3, 3])
    ids = kmeans(points, counts, starts=starts)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = kmeans(points, counts, starts=starts)
    assert not ids.requires_grad
    assert torch.equal(ids, cast)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"points": torch.zeros(2, 4)}, r"points must be"),
        ({"points": torch.zeros(2, 0, 3)}, r"N >= 1"),
        ({"num_groups": torch.tensor([2])}, r"num_groups must be \(2,\)"),
        ({"num_groups": torch.tensor([2, 0])}, r"num_groups must be >= 1"),
        ({"starts": torch.zeros(2, 2, 5)}, r"starts must be \(2, K, 3\)"),
        ({"starts": torch.zeros(2, 1, 3)}, r"starts must give 2"),
        ({"restarts": 0}, r"restarts"),
        ({"max_iter": 0}, r"max_iter"),
    ],
)
def test_wrong_arguments(arguments, message):
    given = {"points": torch.zeros(2, 4, 3), "num_groups": torch.tensor([2, 2])} | arguments
    with pytest.raises(ValueError, match=message):
        kmeans(given.pop("points"), given.pop("num_groups"), **given)


def test_the_chance_of_a_second_start_grows_with_the_square_of_the_distance(generator):
    points = torch.tensor([[[0.0], [1.0], [3.0]]])
    starts = clustering._plus_plus(points, 2, 6000, generator)[0, :, :, 0]
    for first, others in (
        (0.0, {1.0: 1, 3.0: 9}),
        (1.0, {0.0: 1, 3.0: 4}),
        (3.0, {0.0: 9, 1.0: 4}),
    ):
        drawn = starts[starts[:, 0] == first, 1]
        assert len(drawn) > 1800
        for second, weight in others.items():
            share = (drawn == second).float().mean().item()
            assert share == pytest.approx(weight / sum(others.values()), abs=0.03)


def test_what_restarts_are_chosen_by_is_the_inertia(generator):
    points = torch.randn(2, 15, 3, generator=generator)
    starts = torch.randn(2, 4, 3, 3, generator=generator)
    ids, found = clustering._lloyd(points, starts, torch.ones(2, 3, dtype=torch.bool), 50)
    for b in range(2):
        for r in range(4):
            expected = inertia(points[b], ids[b, r])
            assert found[b, r].item() == pytest.approx(expected, rel=1e-4)


def test_starts_are_drawn_where_the_generator_lives(monkeypatch):
    class Elsewhere:
        device = torch.device("meta")

    draw, devices = torch.rand, []

    def rand(*size, generator, device):
        devices.append(device)
        return draw(*size)

    monkeypatch.setattr(torch, "rand", rand)
    points = torch.zeros(1, 4, 2)
    kmeans(points, torch.tensor([1]), generator=Elsewhere())
    kmeans(points, torch.tensor([1]))
    assert devices == [torch.device("meta"), torch.device("cpu")]


def test_a_draw_that_rounds_to_one_is_the_last_point(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda *size, **options: torch.ones(size))
    starts = clustering._plus_plus(torch.tensor([[[0.0], [5.0]]]), 1, 2, None)
    assert starts.flatten().tolist() == [5, 5]


def test_starts_may_be_of_another_precision(generator):
    points = torch.randn(2, 9, 3, generator=generator)
    starts, counts = points[:, :3].clone(), torch.tensor([3, 2])
    expected = kmeans(points, counts, starts=starts)
    assert torch.equal(kmeans(points, counts, starts=starts.double()), expected)


def test_the_centre_of_a_single_point_is_the_point():
    points = torch.tensor([[[8.0], [3.2], [1.0]]])
    # Were the centre of the first group not 8 but nearer, it would win 3.2 in the second step.
    ids = kmeans(points, torch.tensor([2]), starts=torch.tensor([[[8.0], [2.0]]]))
    assert ids.tolist() == [[0, 1, 1]]
