from __future__ import annotations

import pytest

from dscnet.data.formats.coco_values import flag, key, polygons, run_lengths, text, whole


@pytest.mark.parametrize(
    ("value", "number"),
    [(7, 7), (7.0, 7), ("7", 7), (" 7 ", 7), ("7.0", 7), ("007", 7), (-1, -1)]
    + [(2**60 + 1, 2**60 + 1), (str(2**60 + 1), 2**60 + 1)]
    + [(value, None) for value in (True, None, 7.5, "7.5", "a7", "", [7], float("nan"))],
)
def test_whole_numbers(value, number):
    assert whole(value) == number


@pytest.mark.parametrize(
    ("value", "expected"),
    [(7, 7), ("7", 7), (7.0, 7), ("a7", "a7"), (" a ", "a"), ("", None), (None, None), ([], None)],
)
def test_keys_are_numbers_or_text(value, expected):
    assert key(value) == expected


def test_text_is_not_blank():
    assert (text(" a "), text(" "), text(3), text(None)) == ("a", None, None, None)


@pytest.mark.parametrize("value", [1, True, "1", "true", "True", 1.0, "1.0", " yes "])
def test_flags_that_are_set(value):
    assert flag(value) is True


@pytest.mark.parametrize("value", [0, False, "0", "false", None, "", 0.0, "null", "No"])
def test_flags_that_are_not_set(value):
    assert flag(value) is False


@pytest.mark.parametrize("value", [2, "maybe", [], -1])
def test_what_is_no_flag(value):
    assert flag(value) is None


@pytest.mark.parametrize(
    "outline",
    [
        [[0, 0, 2, 0, 2, 2.5]],
        [0, 0, 2, 0, 2, 2.5],
        [["0", "0", "2", 0, "2.0", "2.5"]],
        [[[0, 0], [2, 0], [2, 2.5]]],
    ],
)
def test_one_polygon_however_it_is_nested(outline):
    (polygon,) = polygons(outline)
    assert list(polygon) == [0, 0, 2, 0, 2, 2.5]


@pytest.mark.parametrize("outline", [["zero"], [[1, "b"]], [[[1, 2, 3]]], [[1, None]], [[1], 2]])
def test_what_is_no_polygon(outline):
    with pytest.raises(ValueError, match="expected polygons of numbers, found"):
        polygons(outline)


def test_run_lengths():
    assert run_lengths([1, 2]) == run_lengths(["1", 2.0]) == [1, 2]
    assert run_lengths([1, "a"]) == [1, "a"] and run_lengths(None) is None
    assert run_lengths("b'P3\\\\0'") == "P3\\0" and run_lengths("bP3") == "bP3"
    assert run_lengths("b'P") == "b'P"
