from __future__ import annotations

import pytest

from dscnet.arguments import nearest_option
from dscnet.cli import main


@pytest.mark.parametrize(
    ("message", "option"),
    [
        ("unrecognized arguments: --train.epoch 3", "--train.epochs"),
        ("does not accept option 'resum'", "--resume"),
        ("expected one argument", None),
        ("unrecognized arguments: --zzz", None),
    ],
)
def test_the_nearest_option_of_an_error(message, option):
    assert nearest_option(message) == option


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (["run", "--out", "x", "--train.lrr", "1"], "--train.lr?"),
        (["run", "--out", "x", "--method.varient", "M1"], "--method.variant?"),
    ],
)
def test_a_wrong_setting_names_the_right_one(argv, hint, capsys):
    assert main(argv) == 2
    assert f"did you mean {hint}" in capsys.readouterr().err


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
