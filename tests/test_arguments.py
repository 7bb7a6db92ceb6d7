from __future__ import annotations

import re

import pytest

from dscnet.cli import VERBS, main
from dscnet.command.arguments import (
    RESUMED,
    STAGE_VERBS,
    after_interrupt,
    build_parser,
)
from dscnet.command.hints import nearest_options
from dscnet.command.option_parser import photo_size


@pytest.mark.parametrize(
    ("message", "option"),
    [
        ("unrecognized arguments: --train.epoch 3", "--train.epochs"),
        ("does not accept option 'resum'", "--resume"),
        ("expected one argument", ""),
        ("unrecognized arguments: --zzz", ""),
    ],
)
def test_the_nearest_option_of_an_error(message, option):
    assert nearest_options(message, ["train.epochs", "resume", "out"]) == option


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (["run", "--out", "x", "--train.lrr", "1"], "--train.lr?"),
        (["run", "--out", "x", "--method.varient", "M1"], "--method.variant?"),
        (["data", "prepare", "voc2012", "x", "--downlod"], "--download?"),
        (["submit", "voc2012", "--image", "x"], "--images?"),
        (["--versio"], "--version?"),
    ],
)
def test_a_wrong_setting_names_the_right_one(argv, hint, capsys):
    assert main(argv) == 2
    assert f"did you mean {hint}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "missing"),
    [
        (["run"], "--out"),
        (["predict", "--out", "x"], "--model"),
        (["data"], "action, name"),
    ],
)
def test_what_is_missing_is_named_as_it_is_typed(argv, missing, capsys):
    assert main(argv) == 2
    assert f"are required: {missing}" in capsys.readouterr().err


def test_a_wrong_setting_in_a_file_names_the_right_one(tmp_path, capsys):
    file = tmp_path / "settings.yaml"
    file.write_text("train: {lrr: 1}\n")
    assert main(["run", "--config", str(file), "--data", "x", "--out", "y"]) == 2
    assert "did you mean --train.lr?" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "- a\n", "seed: [\n"])
def test_a_file_without_settings_is_named(tmp_path, text, capsys):
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    assert main(["run", "--config", str(file), "--data", "x", "--out", "y"]) != 0
    assert "settings.yaml" in capsys.readouterr().err


def test_a_shortened_name_is_refused(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    assert main(["run", "--data", "x", "--out", str(tmp_path / "run"), "--forc"]) == 2
    assert "did you mean --force?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv",
    [
        ["data", "prepare", "voc2012", "x", "--resume"],
        ["predict", "x", "--model", "x", "--out", "x", "--force"],
        ["evaluate", "--train.epochs", "3"],
    ],
)
def test_no_hint_is_an_option_of_another_verb(argv, capsys):
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert "unrecognized arguments" in error
    assert "did you mean" not in error


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["run", "--out", "x"], "interrupted; continue with --resume\n"),
        (["data", "prepare", "voc2012", "x"], "interrupted; repeat the command to continue\n"),
        (["demo"], "interrupted; continue with --resume\n"),
        (["predict", "x", "--model", "x", "--out", "x"], "interrupted\n"),
        (["submit", "voc2012"], "interrupted\n"),
    ],
)
def test_what_is_said_of_an_interrupted_verb(argv, said, monkeypatch, capsys):
    def interrupt(parsed):
        raise KeyboardInterrupt

    monkeypatch.setitem(VERBS, argv[0], interrupt)
    assert main(argv) == 1
    assert capsys.readouterr().err == said


def test_only_verbs_with_the_option_say_that_resume_goes_on():
    verbs = build_parser().verbs
    having = {name for name, parser in verbs.items() if "resume" in parser.option_names()}
    assert having == set(RESUMED)
    assert {name for name in verbs if "--resume" in after_interrupt(name)} == having
    assert after_interrupt("sweep") == after_interrupt("tables") == after_interrupt("data")


def test_only_the_settings_of_the_verb_in_use_are_made():
    verbs = build_parser("cam").verbs
    with_settings = {name for name in verbs if "train.lr" in verbs[name].option_names()}
    assert with_settings == {"cam"}
    assert set(verbs) == {*VERBS, "tables"} == set(build_parser("--help").verbs)
    everywhere = build_parser().verbs
    assert verbs["cam"].option_names() == everywhere["cam"].option_names()
    assert {n for n in everywhere if "train.lr" in everywhere[n].option_names()} == {
        *("run", "sweep", "tables", *STAGE_VERBS)
    }


def test_the_command_line_makes_the_parser_of_its_verb(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(
        "dscnet.cli.build_parser", lambda verb, **_: asked.append(verb) or build_parser(verb)
    )
    for argv in (["recipes"], ["--help"], []):
        main(argv)
    assert asked == ["recipes", "--help", ""]


@pytest.mark.parametrize("text", ["384,512", "[384, 512]", "384x512", "(384,512)", "384 512"])
def test_a_size_is_height_and_width(text):
    assert photo_size(text) == (384, 512)
    assert build_parser().parse_args(
        ["export", "--model", "x", "--out", "y", "--size", text]
    ).export.size == (384, 512)


@pytest.mark.parametrize(
    ("verb", "effect"),
    [
        ("run", "delete an existing run folder first"),
        ("train", "delete an existing run folder first"),
        ("segment", "run even if up to date, and replace trainings"),
        ("label", "run even if up to date, and replace trainings"),
    ],
)
def test_the_help_says_what_force_does(capsys, verb, effect):
    with pytest.raises(SystemExit):
        build_parser().parse_args([verb, "--help"])
    force = re.search(r"^ +--force\s+(.+)$", capsys.readouterr().out, re.MULTILINE)
    assert force is not None and force[1] == effect


def test_the_type_of_a_size_can_be_read_in_the_help(capsys):
    with pytest.raises(SystemExit):
        build_parser().parse_args(["export", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "--size HEIGHT,WIDTH onnx: input size in pixels" in said


def test_one_number_is_a_square():
    assert photo_size("512") == photo_size("[512]") == (512, 512)


@pytest.mark.parametrize("text", ["1,2,3", "wide", "0", "512,0", "1.5", "", "512,"])
def test_a_size_of_another_kind_is_said(text, capsys):
    assert main(["export", "--model", "x", "--out", "y", "--size", text]) == 2
    said = capsys.readouterr().err
    assert "--size: expected height and width in pixels, such as 384,512" in said
    assert said.strip().endswith(f"got {text}".strip())
