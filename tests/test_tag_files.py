from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dscnet.data.tag_files import (
    TagEntry,
    class_indices,
    clean_classes,
    first_few,
    ordered_classes,
    read_annotations,
    read_classes,
    read_tag_file,
    suggestion,
)
from dscnet.types import DataError

WORD = st.text("abcdefgh", min_size=1, max_size=4)


def tags_of(path, known=()):
    return {entry.image_id: entry.names for entry in read_tag_file(path, known)}


def csv_file(folder, *lines, header="image_id,labels"):
    path = folder / "tags.csv"
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("field", ["cat dog", "cat;dog", "cat|dog", " cat ; dog ;", "cat cat dog"])
def test_labels_are_split_and_named_once(tmp_path, field):
    assert tags_of(csv_file(tmp_path, f"a,{field}")) == {"a": ("cat", "dog")}


def test_names_with_spaces_need_a_separator(tmp_path):
    path = csv_file(tmp_path, "a,traffic light;car", "b,car|traffic light", "c,big car")
    assert tags_of(path) == {
        "a": ("traffic light", "car"),
        "b": ("car", "traffic light"),
        "c": ("big", "car"),
    }


def test_single_name_with_a_space_is_known_from_the_classes_or_from_other_rows(tmp_path):
    path = csv_file(tmp_path, "a,traffic light")
    assert tags_of(path) == {"a": ("traffic", "light")}
    assert tags_of(path, known=("traffic light",)) == {"a": ("traffic light",)}
    path = csv_file(tmp_path, "a,traffic light", "b,traffic light;car")
    assert tags_of(path)["a"] == ("traffic light",)


def test_empty_labels_and_background_are_negatives(tmp_path):
    path = csv_file(tmp_path, "a,", "", "b,background", "c,_background_ cat", "d,Background")
    assert tags_of(path) == {"a": (), "b": (), "c": ("cat",), "d": ()}


def test_csv_accepts_byte_order_mark_and_windows_lines(tmp_path):
    path = tmp_path / "tags.csv"
    path.write_bytes("\ufeffimage_id,labels\r\nä b,cat\r\n".encode())
    assert read_tag_file(path) == [TagEntry("ä b", ("cat",), f"{path}, line 2")]


@pytest.mark.parametrize("header", ["id,labels", "image_id;labels", "image_id,labels,x", ""])
def test_wrong_header_is_said(tmp_path, header):
    with pytest.raises(DataError, match=r"tags\.csv, line 1.*image_id,labels"):
        read_tag_file(csv_file(tmp_path, "a,cat", header=header))


@pytest.mark.parametrize("line", ["b", "b,cat,dog", "b,['cat', 'dog']"])
def test_wrong_columns_name_the_line(tmp_path, line):
    with pytest.raises(DataError, match=r"tags\.csv, line 3: .*separate"):
        read_tag_file(csv_file(tmp_path, "a,cat", line))


def test_missing_image_id_names_the_line(tmp_path):
    with pytest.raises(DataError, match="line 2: the image id is missing"):
        read_tag_file(csv_file(tmp_path, ",cat"))


@pytest.mark.parametrize(
    "content",
    [
        {"a": ["big cat", "dog"], "b": [], "c": "dog"},
        [
            {"image_id": "a", "labels": ["big cat", "dog"]},
            {"image_id": "b", "labels": None},
            {"image_id": "c", "labels": "dog"},
        ],
    ],
)
def test_json_forms(tmp_path, content):
    path = tmp_path / "tags.json"
    path.write_text(json.dumps(content))
    assert tags_of(path) == {"a": ("big cat", "dog"), "b": (), "c": ("dog",)}


def test_json_lines(tmp_path):
    path = tmp_path / "tags.jsonl"
    path.write_text(
        '{"image_id": "a", "labels": ["cat"]}\n\n{"image_id": "b", "labels": "cat;dog"}\n'
    )
    entries = read_tag_file(path)
    assert [(entry.image_id, entry.names) for entry in entries] == [
        ("a", ("cat",)),
        ("b", ("cat", "dog")),
    ]
    assert entries[1].where == f"{path}, line 3"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("3", "expected an object"),
        ('{"a": 3}', "entry 'a': labels must be"),
        ('{"a": [3]}', "entry 'a': labels must be"),
        ('{"a": ["x"], "a": ["y"]}', "'a' occurs twice"),
        ('[{"image_id": "a", "labels": []}, {"image_id": "b"}]', "item 2: expected an object"),
        ('[{"image_id": 7, "labels": []}]', "item 1: the image id must be text"),
    ],
)
def test_json_of_another_form_is_said(tmp_path, text, message):
    path = tmp_path / "tags.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_tag_file(path)


def test_json_lines_name_the_line(tmp_path):
    path = tmp_path / "tags.jsonl"
    path.write_text('{"image_id": "a", "labels": []}\n{"image_id": \n')
    with pytest.raises(DataError, match="line 2: not valid JSON"):
        read_tag_file(path)


def test_files_of_other_kinds_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"\.csv, \.json, \.jsonl"):
        read_tag_file(tmp_path / "tags.txt")
    with pytest.raises(DataError, match="cannot be read"):
        read_tag_file(tmp_path / "tags.csv")
    (tmp_path / "tags.csv").write_bytes(b"image_id,labels\n\xff\xfe,cat\n")
    with pytest.raises(DataError, match="save it as UTF-8"):
        read_tag_file(tmp_path / "tags.csv")


@given(rows=st.dictionaries(WORD, st.lists(WORD, unique=True, max_size=3), max_size=4))
def test_every_form_says_the_same(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("forms")
    (folder / "tags.json").write_text(json.dumps(rows))
    objects = [{"image_id": key, "labels": names} for key, names in rows.items()]
    (folder / "tags.jsonl").write_text("\n".join(map(json.dumps, objects)))
    expected = {key: tuple(names) for key, names in rows.items()}
    for separator in " ;|":
        lines = [f"{key},{separator.join(names)}" for key, names in rows.items()]
        assert tags_of(csv_file(folder, *lines)) == expected
    assert tags_of(folder / "tags.json") == expected == tags_of(folder / "tags.jsonl")


def test_difficult_objects_count_unless_they_are_left_out(tmp_path):
    objects = (("cat", "0"), ("dog", "1"), ("cow", " 0 "))
    text = "".join(
        f"<object><name>{name}</name><difficult>{value}</difficult></object>"
        for name, value in objects
    )
    (tmp_path / "a.XML").write_text(
        f"<annotation>{text}<object><name>yak</name></object></annotation>"
    )
    (tmp_path / "._a.xml").write_bytes(b"\0\5\26\7")
    assert [e.names for e in read_annotations(tmp_path)] == [("cat", "dog", "cow", "yak")]
    kept = read_annotations(tmp_path, difficult=False)
    assert [(e.image_id, e.names) for e in kept] == [("a", ("cat", "cow", "yak"))]


def test_annotations_give_objects_once_without_their_parts(tmp_path):
    (tmp_path / "b.xml").write_text("<annotation></annotation>")
    (tmp_path / "a.xml").write_text(
        "<annotation><object><name>dog</name><difficult>1</difficult></object>"
        "<object><name>person</name><part><name>head</name></part></object>"
        "<object><name>dog</name></object></annotation>"
    )
    entries = read_annotations(tmp_path)
    assert [(entry.image_id, entry.names) for entry in entries] == [
        ("a", ("dog", "person")),
        ("b", ()),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation>", "not well-formed"),
        ("<annotation><object/></annotation>", "an object has no name"),
    ],
)
def test_bad_annotation_names_the_file(tmp_path, text, message):
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(DataError, match=rf"a\.xml: .*{message}"):
        read_annotations(tmp_path)


@pytest.mark.parametrize(
    "first", ["", "background\n", "_background_\n", "__background__\n", "BACKGROUND\n"]
)
def test_leading_background_is_no_class(tmp_path, first):
    path = tmp_path / "classes.txt"
    path.write_text(f"\n{first}cat\n traffic light \n\n")
    assert read_classes(path) == ("cat", "traffic light")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "lists no class"),
        (["background"], "lists no class"),
        (["cat", "background"], "must come first"),
        (["cat", "Background"], "must come first"),
        (["cat", "dog", "cat"], "'cat' is listed twice"),
    ],
)
def test_useless_class_lists_are_refused(names, message):
    with pytest.raises(DataError, match=rf"classes\.txt: .*{message}"):
        clean_classes(names, "classes.txt")


def test_tags_become_sorted_indices():
    assert class_indices(TagEntry("a", ("dog", "ant"), ""), ("ant", "cat", "dog")) == (0, 2)
    assert class_indices(TagEntry("a", (), ""), ("ant",)) == ()


def test_unknown_class_names_the_place_and_the_nearest():
    with pytest.raises(DataError, match=r"line 4: 'Catt' is not a class, did you mean 'cat'\?"):
        class_indices(TagEntry("a", ("Catt",), "tags.csv, line 4"), ("ant", "cat", "dog"))


def test_nothing_near_suggests_nothing():
    assert suggestion("zebra", ("cat", "dog")) == ""
    assert suggestion("CAT", ("cat", "Dog")) == ", did you mean 'cat'?"


def test_first_few_counts_the_rest():
    assert first_few([]) == ""
    assert first_few(["a", "b", "c"]) == "a, b, c"
    assert first_few(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"


@pytest.mark.parametrize("text", ["cow\n\nsheep\n", "background\n\ncow\n", "cow\n \t\n\nsheep\n"])
def test_a_blank_line_between_classes_is_refused(tmp_path, text):
    path = tmp_path / "classes.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=r"classes\.txt: a blank line follows .* remove the line"):
        read_classes(path)


def test_names_are_clean_and_only_ends_of_lines_part_them(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text('\u200b\nze\u0301bu\n"traffic\u2028light"\n\u200b\n', encoding="utf-8")
    assert read_classes(path) == ("z\u00e9bu", "traffic light")


@pytest.mark.parametrize("first", ["0 background", "0: Background", "background 0 0 0"])
def test_a_background_with_a_number_is_no_class(tmp_path, first):
    path = tmp_path / "classes.txt"
    path.write_text(f"{first}\n1 cow\n2 sheep\n")
    with pytest.raises(DataError, match="write only names"):
        read_classes(path)


def test_there_are_no_more_classes_than_labels(tmp_path):
    path = tmp_path / "classes.txt"
    names = [f"c{number}" for number in range(255)]
    path.write_text("\n".join(["background", *names[:254]]))
    assert len(read_classes(path)) == 254
    path.write_text("\n".join(names))
    with pytest.raises(DataError, match=r"classes\.txt: 255 classes, but masks have room for 254"):
        read_classes(path)


@pytest.mark.parametrize(
    ("names", "ordered"),
    [
        (["10", "2", "1"], ["1", "2", "10"]),
        (["class 10", "class 9"], ["class 9", "class 10"]),
        (["07", "7", "6"], ["6", "07", "7"]),
        (["10", "2", "cow"], ["10", "2", "cow"]),
        (["b10", "a9"], ["a9", "b10"]),
        (["b", "a", "C"], ["C", "a", "b"]),
        ([], []),
    ],
)
def test_classes_that_nobody_listed_are_ordered_by_their_numbers(names, ordered):
    assert ordered_classes(names) == ordered


@pytest.mark.parametrize("name", ["background", "Background", "_background_", "BACKGROUND"])
def test_an_object_background_is_no_tag(tmp_path, name):
    names = "".join(f"<object><name>{x}</name></object>" for x in (name, "cow", " cow "))
    (tmp_path / "a.xml").write_text(f"<annotation>{names}</annotation>")
    assert read_annotations(tmp_path)[0].names == ("cow",)
