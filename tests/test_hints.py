"""Tests of the command line's help and of its hints for mistyped words."""

from __future__ import annotations

import pytest

from dscnet.cli import VERBS, main
from dscnet.command.often import MEANING, OFTEN
from dscnet.config import Config
from dscnet.config.settings import dotted_settings, to_dict
from dscnet.files.similar_names import did_you_mean, similar_path


def printed(capsys, *words: str) -> str:
    code = main(list(words))
    shown = capsys.readouterr()
    assert code == (0 if "--help" in words or "--help-all" in words else code)
    return shown.out + shown.err


@pytest.mark.parametrize("verb", [*VERBS, "tables"])
def test_the_help_of_a_verb_fits_on_a_screen(verb, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert len(printed(capsys, verb, "--help").splitlines()) <= 40


def test_all_settings_are_in_the_long_help(capsys):
    short, long = printed(capsys, "run", "--help"), printed(capsys, "run", "--help-all")
    settings = dotted_settings(to_dict(Config()))
    assert all(f"--{name} " in long for name in settings if name != "extensions")
    assert "--affinity.radius" not in short
    assert all(f"--{name} " in short for name in OFTEN["run"])


def test_every_setting_of_the_short_help_exists_and_has_a_meaning():
    settings = dotted_settings(to_dict(Config()))
    named = {name for names in OFTEN.values() for name in names}
    assert named == {*MEANING} <= {*settings}


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["rum", "--out", "x"], "no verb rum (did you mean run?); there are demo"),
        (
            ["run", "--out", "x", "--epochs", "1"],
            "did you mean --train.epochs or --segment.epochs?",
        ),
        (["run", "--out", "x", "--lr", "1"], "did you mean --train.lr or --segment.lr?"),
        (
            ["run", "--out", "x", "--backbone", "a"],
            "did you mean --model.backbone or --segment.backbone?",
        ),
        (
            ["run", "--out", "x", "--scale.relative_to", "trainng"],
            "--scale.relative_to must be one of training, photo, got trainng"
            " (did you mean training?)",
        ),
        (
            ["run", "--out", "x", "--label.bg_score", "aut"],
            "--label.bg_score must be a number or one of auto, otsu, class_otsu, tags, stability,"
            " agreement, scales, saliency, got aut (did you mean auto?)",
        ),
        (["export", "--model", "a", "--out", "b", "--format", "cocoo"], "(did you mean coco?)"),
        (
            ["run", "--out", "x", "--config", "demoo"],
            "neither a file nor a recipe (did you mean demo?)",
        ),
        (["sweep", "--out", "x", "--variants", "basline"], "(did you mean baseline?)"),
        (["tables", "figure-5", "--out", "x"], "(did you mean figure5?)"),
        (["tables", "II", "--out", "x", "--bases", "saem"], "(did you mean seam?)"),
    ],
)
def test_mistyped_words_get_the_nearest_right_one(words, hint, capsys):
    assert main(words) in (1, 2)
    assert hint in capsys.readouterr().err


def test_mistyped_names_in_settings_get_the_nearest_right_one(scenes, tmp_path, capsys):
    run = ["run", "--data", str(scenes), "--out", str(tmp_path / "run")]
    assert "(did you mean seam?)" in printed(capsys, *run, "--model.name", "saem")
    assert "(did you mean crf?)" in printed(capsys, *run, "--refine.steps", "[crff]")


def test_mistyped_paths_get_the_nearest_existing_name(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    assert "(did you mean photos?)" in printed(capsys, "check", str(tmp_path / "fotos"))
    gt = tmp_path / "masks"
    gt.mkdir()
    names = tmp_path / "classes.txt"
    names.write_text("background\ncat\n")
    words = ["--pred", str(tmp_path / "maks"), "--gt", str(gt), "--classes", str(names)]
    assert "(did you mean masks?)" in printed(capsys, "evaluate", *words)
    assert similar_path(tmp_path / "fotos" / "train") == " (did you mean photos?)"
    assert similar_path(tmp_path / "zzz") == ""


def test_settings_are_found_by_a_word(capsys):
    text = printed(capsys, "settings", "TILE")
    assert text.startswith("scale.tiles (default: 1)\n    For small objects")
    assert "train.epochs" not in text
    assert "did you mean threshold?" in printed(capsys, "settings", "thershold")
    every = printed(capsys, "settings")
    assert all(f"{name} " in every for name in dotted_settings(to_dict(Config())))


def test_case_does_not_count_and_unlike_words_give_no_hint():
    assert did_you_mean("CRFF", ["crf", "walk"]) == " (did you mean crf?)"
    assert did_you_mean("x", ["crf", "walk"]) == ""
