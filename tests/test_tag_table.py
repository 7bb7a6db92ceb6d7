from __future__ import annotations

import numpy as np
import pytest

from dscnet.data.tag_files import read_tag_file
from dscnet.data.tag_table import TagEntry, TagTable
from dscnet.data.tag_text import TagParser, split_tags

ENTRIES = [
    TagEntry("a", ("dog", "cat"), "line 2"),
    TagEntry("b", (), "line 3"),
    TagEntry("c", ("yak", "dog"), "line 4"),
]


def test_a_table_is_the_sequence_of_its_entries():
    table = TagTable.of(ENTRIES)
    assert list(table) == ENTRIES == table and table[-1] == ENTRIES[2] and table[1:] == ENTRIES[1:]
    assert table.names == ["dog", "cat", "yak"] and TagTable.of(table) is table
    with pytest.raises(IndexError):
        table[3]


def test_class_lists_are_sorted_and_taken_by_row():
    table = TagTable.of(ENTRIES)
    lists = table.class_lists(("cat", "dog", "yak"))
    assert list(lists) == [(0, 1), (), (1, 2)]
    some = lists.take(np.array([2, -1]))
    assert list(some) == [(1, 2), ()] and some.counts.tolist() == [2, 0]
    assert some.present() == {1, 2} and lists.present() == {0, 1, 2}
    with pytest.raises(KeyError):
        table.class_lists(("cat", "dog"))


def test_rows_are_found_by_name():
    table = TagTable.of(ENTRIES)
    assert table.rows_with({"dog"}) == [0, 2] and table.rows_with({"cat", "yak"}) == [0, 2]
    assert table.rows_with({"yak"}) == [2] and table.rows_with(set()) == []


def test_an_empty_table():
    table = TagTable.of([])
    assert len(table) == 0 and list(table.class_lists(("cat",))) == []
    assert table.class_lists(("cat",)).present() == set()


FIELDS = [
    "cow",
    " cow  dog cow",
    "cow;dog",
    "['cow', 'big cat']",
    "big cat",
    "none cow",
    "",
    "Cow.",
]


@pytest.mark.parametrize("known", [(), ("big cat",), ("none", "cow")])
def test_the_parser_gives_what_each_field_gives_alone(known):
    parse = TagParser(known)
    for _ in range(2):
        assert [parse(text) for text in FIELDS] == [split_tags(text, known) for text in FIELDS]
    assert parse.delimited == {"cow", "dog", "big cat"}


@pytest.mark.parametrize("first", ["big cat", "none"])
def test_a_name_between_separators_is_known_in_rows_before_it(tmp_path, first):
    path = tmp_path / "tags.csv"
    path.write_text(f"image_id,labels\na,{first}\nb,cow;big cat\n")
    names = [entry.names for entry in read_tag_file(path)]
    assert names == [("big cat",) if first == "big cat" else (), ("cow", "big cat")]
