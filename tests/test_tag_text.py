from __future__ import annotations

import json
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dscnet.data.tag_files import read_tag_file
from dscnet.data.tag_text import clean_name, is_background, name_warnings, says_none, split_tags
from dscnet.types import DataError


@pytest.mark.parametrize(
    "text",
    [
        "cow",
        " cow ",
        "cow\u200b",
        "\ufeffcow",
        "cow\u00a0",
        "c\u00adow",
        "'cow'",
        '" cow"',
        "cow\t",
        "cow\ufe0f",
        "`cow`",
        "\u201ccow\u201d",
        "\u00ab cow \u00bb",
    ],
)
def test_what_nobody_sees_is_no_part_of_a_name(text):
    assert clean_name(text) == "cow"


def test_names_are_composed_and_white_space_is_one_space():
    assert clean_name("ze\u0301bu") == "zébu"
    assert clean_name("traffic\u00a0 \tlight") == "traffic light"
    persian = "\u0645\u06cc\u200c\u0631\u0648\u062f"
    assert clean_name(persian) == persian, "a joiner between letters is spelling"


@given(st.text())
def test_a_clean_name_stays_as_it_is(text):
    name = clean_name(text)
    assert clean_name(name) == name or name[:1] in "'\"`\u201c\u2018\u00ab"
    assert unicodedata.is_normalized("NFC", name)


@pytest.mark.parametrize(
    "text",
    [
        *("cow;sheep", "cow|sheep", "cow,sheep", "cow, sheep", "cow sheep", "cow\nsheep"),
        *("cow\r\nsheep\r\n", "cow\tsheep", "['cow', 'sheep']", '["cow", "sheep"]'),
        *("('cow', 'sheep')", "[cow, sheep]", "{'cow', 'sheep'}", "cow;;sheep; ", "cow;'sheep'"),
        *(str(np.array(["cow", "sheep"])), "cow\u200b; sheep\u00a0", "cow; none; sheep"),
        *("cow\uff1bsheep", "cow\u3001sheep", "cow\uff0c sheep", "['cow'; 'sheep']"),
    ],
)
def test_one_rule_for_text_of_every_form(tmp_path, text):
    assert split_tags(text) == ("cow", "sheep")
    (tmp_path / "tags.json").write_text(json.dumps({"a": text}))
    (tmp_path / "tags.jsonl").write_text(json.dumps({"image_id": "a", "labels": text}))
    quoted = text.replace('"', '""')
    (tmp_path / "tags.csv").write_text(f'image_id,labels\na, "{quoted}"\n', newline="")
    for ending in ("csv", "json", "jsonl"):
        (entry,) = read_tag_file(tmp_path / f"tags.{ending}")
        assert entry.names == ("cow", "sheep")


@pytest.mark.parametrize("text", ["['big cat']", "big cat;", "big cat\n;", '["big\\u0020cat"]'])
def test_names_with_spaces_stay_whole_where_they_are_set_apart(text):
    assert split_tags(text) == ("big cat",)


def test_a_known_name_stays_whole_whatever_it_holds():
    known = ("wall, low", "door;gate", "none", "[x]")
    for name in known:
        assert split_tags(name, known) == split_tags([name], known) == (name,)
    assert split_tags("wall, low") == ("wall", "low")


@pytest.mark.parametrize(
    "text",
    ["", " ", "[]", "()", "none", "None", "[None]", "nan", "negative", "<none>", "Background"],
)
def test_words_for_nothing_are_no_tags(text):
    assert split_tags(text) == ()


def test_accents_and_marks_make_no_classes(tmp_path):
    path = tmp_path / "tags.csv"
    path.write_text("image_id,labels\na,z\u00e9bu\nb,ze\u0301bu\nc,z\u00e9bu\u200b\n")
    assert {entry.names for entry in read_tag_file(path)} == {("zébu",)}


@pytest.mark.parametrize("item", ["cow, sheep", "cow;sheep", "cow\nsheep"])
def test_several_names_in_an_item_of_a_list_are_refused(tmp_path, item):
    path = tmp_path / "tags.json"
    path.write_text(json.dumps({"a": ["dog"], "b": [item]}))
    with pytest.raises(DataError, match=r"tags\.json, entry 'b': .* several names .*classes\.txt"):
        read_tag_file(path)
    assert read_tag_file(path, known=(clean_name(item),))[1].names == (clean_name(item),)


@pytest.mark.parametrize("text", ['{"cow": 1}', "[['cow'], ['dog']]"])
def test_lists_of_other_things_are_refused(tmp_path, text):
    path = tmp_path / "tags.json"
    path.write_text(json.dumps({"a": text}))
    with pytest.raises(DataError, match="entry 'a': .* is not a list of names; write names"):
        read_tag_file(path)


def test_a_quote_that_is_never_closed_names_its_line(tmp_path):
    path = tmp_path / "tags.csv"
    path.write_text('image_id,labels\na,cow\nb,"cow\nc,sheep\n')
    with pytest.raises(DataError, match=r"tags\.csv, line 3: invalid CSV .*quotes"):
        read_tag_file(path)


def test_lines_of_json_end_where_lines_end(tmp_path):
    path = tmp_path / "tags.jsonl"
    path.write_text('{"image_id": "a\u2028b", "labels": ["cow"]}\n', encoding="utf-8")
    assert [entry.names for entry in read_tag_file(path)] == [("cow",)]


def test_the_background_is_known_in_any_dress():
    assert all(map(is_background, ["background", "_background_", "BackGround\u200b"]))
    assert not is_background("backgrounds of old") and not says_none("neon")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("Cow", "cow"), "Cow, cow differ only in case"),
        (("stop-sign", "Stop sign"), "differ only in case, spaces, hyphens or width"),
        (("cow", "\uff43\uff4f\uff57"), "differ only in case, spaces, hyphens or width"),
        (
            ("cow", "cow/sheep", "sheep"),
            "'cow/sheep' is a separate class besides 'cow' and 'sheep'",
        ),
        (("cow", "cow and sheep", "sheep"), "besides 'cow' and 'sheep'"),
        (("cow", "cow."), "'cow.' is a separate class besides 'cow'"),
        (("cow", "cow:0.9"), "'cow:0.9' is a separate class besides 'cow'"),
        (("cow", "none"), "'none' is a separate class"),
        (("masks_incorrect", "no_masks"), "'no_masks' is a separate class"),
        (("helmet", "Without Helmet"), "'Without Helmet' is a separate class"),
    ],
)
def test_odd_names_are_told(classes, message):
    (warning,) = name_warnings(classes)
    assert message in warning


def test_ordinary_names_are_not():
    assert (
        name_warnings(
            (
                "cow",
                "no entry",
                "notebook",
                "train",
                "traffic light",
                "zébu",
                "c1",
                "c",
                "salt and pepper",
            )
        )
        == []
    )
    assert name_warnings(("1", "2", "12", "t-shirt", "shirt", "dog/wolf", "dog")) == []
