from __future__ import annotations

import pytest

from dscnet.data.formats.yaml_parts import read_parts
from dscnet.types import DataError


def parts(tmp_path, classes):
    path = tmp_path / "own.yaml"
    path.write_text(f"images: images\ntags: tags.csv\n{classes}")
    return read_parts(path)


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("", None),
        ("classes: [cat, ' traffic light ']", ("cat", "traffic light")),
        ("classes: [Background, 1, 2]", ("1", "2")),
        ("classes: names.txt", ("dog",)),
    ],
)
def test_classes_are_listed_here_or_in_a_file(tmp_path, text, classes):
    (tmp_path / "names.txt").write_text("dog\n")
    assert parts(tmp_path, text).classes() == classes


def test_a_list_beside_the_file_counts_where_the_file_names_none(tmp_path):
    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    assert parts(tmp_path, "").classes() == ("dog", "cat")
    assert parts(tmp_path, "classes: [cat, dog]").classes() == ("cat", "dog")


@pytest.mark.parametrize("item", ["", "~", "no", '"\\u200b"', "1.5", "''", "[a]"])
def test_an_item_that_is_no_name_is_refused(tmp_path, item):
    with pytest.raises(DataError, match=r"own\.yaml: classes, item 2 is .*in quotes or remove"):
        parts(tmp_path, f"classes:\n- cow\n- {item}\n- sheep\n").classes()


def test_more_classes_than_labels_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"own\.yaml: 255 classes, but masks have room for 254"):
        parts(tmp_path, f"classes: [{', '.join(f'c{n}' for n in range(255))}]").classes()
