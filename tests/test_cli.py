from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from dscnet.cli import VERBS, _with_config_file, main, metrics_table
from dscnet.command.arguments import build_parser


def test_help_lists_every_verb_and_imports_only_the_command_line():
    code = "import sys, dscnet.cli as c; c.main(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = set(done.stderr.split())
    assert {"dscnet.command.arguments", "jsonargparse"} <= loaded
    assert not loaded & {"torch", "numpy", "PIL", "scipy", "lightning", "timm"}
    places = {name.split(".")[1] for name in loaded if name.startswith("dscnet.")}
    light = {
        "cli",
        "command",
        "config",
        "plugins",
        "deprecation",
        "distributed",
        "files",
        "tables",
        "metrics",
    }
    assert places <= light
    for verb in (
        "demo",
        "check",
        "run",
        "train",
        "cam",
        "refine",
        "label",
        "segment",
        "evaluate",
        "predict",
        "report",
        "export",
        "recipes",
        "saliency",
        "sweep",
        "data",
        "submit",
        "tables",
    ):
        assert verb in done.stdout


@pytest.mark.parametrize(
    "argv",
    [
        ["run", "--data", "x"],
        ["run", "--out", "x", "--train.lr", "fast"],
        ["run", "--out", "x", "--method.variant", "M9"],
        ["xyz"],
    ],
)
def test_what_is_no_unknown_setting_gets_no_guess(argv, capsys):
    assert main(argv) == 2
    assert "did you mean" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv",
    [
        ["run"],
        ["run", "--out", "x", "--train.lr", "fast"],
        ["run", "--out", "x", "--method.variant", "M5"],
        ["fly"],
        ["sweep", "--out", "x", "--variants", "M9"],
        ["sweep", "--out", "x", "--variants", "M1", "--grid", "x.yaml"],
        ["sweep", "--out", "x", "--jobs", "two"],
        ["sweep", "--out", "x", "--shard", "half"],
        [],
        ["evaluate", "--pred", "x"],
        ["data", "prepare", "voc2007", "x"],
        ["submit", "voc2012"],
        ["tables", "VI", "--out", "x"],
        ["tables", "IV", "--out", "x", "--bases", "cam"],
        ["tables", "IV", "--out", "x", "--shard", "half"],
        ["tables", "IV", "--out", "x", "--measure", "miou"],
    ],
)
def test_wrong_usage_exits_with_two(argv, capsys):
    assert main(argv) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_failures_exit_with_one_and_without_traceback(tmp_path, capsys):
    assert (
        main(
            [
                "run",
                "--config",
                "demo",
                "--data",
                str(tmp_path / "nowhere"),
                "--out",
                str(tmp_path / "run"),
            ]
        )
        == 1
    )
    error = capsys.readouterr().err
    assert "nowhere" in error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists(), "nothing is written before the data is known to be good"


def test_settings_count_wherever_they_stand_beside_a_file(tmp_path):
    (tmp_path / "mine.yaml").write_text("train: {epochs: 2}\n")
    file = str(tmp_path / "mine.yaml")
    settings = ["--train.epochs", "3", "--out", "x"]
    for words in ([*settings, "--config", file], [*settings, f"--config={file}"]):
        assert _with_config_file(["run", *words]) == ["run", "--config", file, *settings]


def test_a_run_folder_is_known_by_either_way_of_writing(tmp_path):
    (tmp_path / "config.yaml").write_text("scale: {side: 64}\n")
    stored = ["--config", str(tmp_path / "config.yaml")]
    for words in (["--out", str(tmp_path)], [f"--out={tmp_path}"]):
        assert _with_config_file(["cam", *words])[1:3] == stored
        assert _with_config_file(["run", "--resume", *words])[1:3] == stored
        assert "--config" not in _with_config_file(["run", *words])


def test_a_file_given_beside_resume_overrides_the_settings_of_the_run(tmp_path):
    (tmp_path / "config.yaml").write_text("data: photos\nscale: {side: 64}\n")
    (tmp_path / "mine.yaml").write_text("scale: {side: 96}\n")
    stored, mine = (["--config", str(tmp_path / f"{name}.yaml")] for name in ("config", "mine"))
    out = ["--out", str(tmp_path)]
    for words in (["run", "--resume"], ["segment"], ["segment", "--force"]):
        typed = _with_config_file([*words, *mine, *out])
        assert typed[1:5] == [*stored, *mine]
        parsed = build_parser().parse_args(typed)[words[0]]
        assert (parsed.data, parsed.scale.side) == ("photos", 96)
    for words in (["run", "--force", "--resume"], ["train", "--force"]):
        assert _with_config_file([*words, *mine, *out])[1:3] == mine
        assert stored[1] not in _with_config_file([*words, *mine, *out])


def test_unexpected_failures_show_where_only_if_asked(monkeypatch, capsys):
    def fail(parsed):
        raise RuntimeError("out of memory")

    monkeypatch.setitem(VERBS, "recipes", fail)
    assert main(["recipes"]) == 1
    error = capsys.readouterr().err
    assert error == "error: RuntimeError: out of memory (--debug shows the traceback)\n"
    with pytest.raises(RuntimeError, match="out of memory"):
        main(["recipes", "--debug"])


def test_dscnets_notes_are_shown_and_others_warnings_alone(monkeypatch, capsys):
    monkeypatch.setattr(logging.root, "handlers", [])
    level = logging.root.level
    try:
        main(["recipes"])
        logging.getLogger("onnx_ir").info("Replaced initializer")
        logging.getLogger("onnx_ir").warning("is no part of the graph")
        logging.getLogger("dscnet").info("drawing scenes")
    finally:
        logging.root.setLevel(level)
    assert capsys.readouterr().err == "is no part of the graph\ndrawing scenes\n"


def test_recipes_are_listed(capsys):
    assert main(["recipes"]) == 0
    assert "msrc_seam_dscnet" in capsys.readouterr().out


@pytest.mark.usefixtures("untried")
def test_check_looks_at_the_lists_of_splits_too(tmp_path, capsys):
    for folder in ("images", "splits"):
        (tmp_path / folder).mkdir()
    for name in "ab":
        Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "images" / f"{name}.png")
    (tmp_path / "tags.csv").write_text("image_id,labels\na,cat\nb,dog\n")
    (tmp_path / "splits" / "train.txt").write_text("a\nb\n")
    assert main(["check", str(tmp_path)]) == 0
    (tmp_path / "splits" / "train.txt").write_text("a\nb\nyak\n")
    assert main(["check", str(tmp_path)]) == 1
    assert "train.txt, line 3: there is no photo 'yak'" in capsys.readouterr().out
    assert main(["check", str(tmp_path), "--split", "train"]) == 1


def test_check_refuses_too_few_photos_in_the_words_of_run(tmp_path, capsys):
    (tmp_path / "cat").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "cat" / "a.png")
    said = []
    for verb in (["check", tmp_path], ["run", "--data", tmp_path, "--out", tmp_path / "run"]):
        assert main([str(word) for word in verb]) == 1
        # `check` tells of errors where it tells of all else, and nothing of it is ok then.
        lines = "\n".join(capsys.readouterr()).splitlines()
        assert "ok" not in lines
        said.append([line for line in lines if line.startswith("error")])
    assert said[0] == said[1]
    assert "DeepLabV3+ needs at least 2 photos per step, got 1" in said[0][0]


def test_evaluate_compares_two_folders(tmp_path, capsys):
    for folder in ("pred", "gt"):
        (tmp_path / folder).mkdir()
        mask = np.zeros((4, 4), np.uint8)
        mask[:2] = 1
        if folder == "pred":
            mask[0, 0] = 0
        Image.fromarray(mask).save(tmp_path / folder / "a.png")
    (tmp_path / "classes.txt").write_text("background\ncat\n")
    target = tmp_path / "numbers.json"
    argv = ["evaluate", "--pred", str(tmp_path / "pred"), "--gt", str(tmp_path / "gt")]
    assert main([*argv, "--classes", str(tmp_path / "classes.txt"), "--json", str(target)]) == 0
    section = json.loads(target.read_text())
    # Background: 8 right of 9 in the union; cat: 7 right of 8.
    assert section["iou"] == pytest.approx({"background": 8 / 9, "cat": 7 / 8})
    assert section["miou"] == pytest.approx((8 / 9 + 7 / 8) / 2)


def test_evaluate_says_which_true_masks_it_left_out(tmp_path, capsys):
    for folder, names in (("pred", "a"), ("gt", "ab")):
        (tmp_path / folder).mkdir()
        for name in names:
            Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / folder / f"{name}.png")
    (tmp_path / "classes.txt").write_text("cat\n")
    (tmp_path / "ids.txt").write_text("a\nb\n")
    argv = ["evaluate", "--pred", str(tmp_path / "pred"), "--gt", str(tmp_path / "gt")]
    argv += ["--classes", str(tmp_path / "classes.txt")]
    assert main(argv) == 0
    assert "1 ground-truth masks have no prediction" in capsys.readouterr().err
    assert main([*argv, "--ids", str(tmp_path / "ids.txt")]) == 1
    assert "has no prediction for 1 of 2 photos (b)" in capsys.readouterr().err


@pytest.fixture
def two_masks(tmp_path):
    """Words of ``evaluate`` for two folders of masks, without ids."""
    for folder in ("pred", "gt"):
        (tmp_path / folder).mkdir()
        for name in ("2007_000003", "my photo"):
            Image.fromarray(np.ones((2, 2), np.uint8)).save(tmp_path / folder / f"{name}.png")
    (tmp_path / "classes.txt").write_text("cat\n")
    argv = ["evaluate", "--pred", str(tmp_path / "pred"), "--gt", str(tmp_path / "gt")]
    return [*argv, "--classes", str(tmp_path / "classes.txt")]


@pytest.mark.parametrize(
    "text",
    [
        "2007_000003\nmy photo\n",
        "2007_000003.jpg\r\n\r\nmy photo.JPG\r\n",
        "\ufeff2007_000003\n2007_000003.jpg\nmy photo",
    ],
)
def test_evaluate_takes_lists_as_data_sets_have_them(two_masks, text, tmp_path, capsys):
    (tmp_path / "ids.txt").write_bytes(text.encode())
    assert main([*two_masks, "--ids", str(tmp_path / "ids.txt")]) == 0
    assert "2 photos" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "ids.txt: expected image ids, one per line, found none"),
        (b"\n \n", "ids.txt: expected image ids, one per line, found none"),
        ("caf\u00e9".encode("latin-1"), "ids.txt: is not UTF-8 text"),
        (b"2007_000009.jpg", "gt: has no ground truth for 1 of 1 photos (2007_000009.jpg)"),
        (None, "ids.txt: cannot be read"),
    ],
)
def test_evaluate_names_the_list_that_is_wrong(two_masks, content, said, tmp_path, capsys):
    if content is not None:
        (tmp_path / "ids.txt").write_bytes(content)
    assert main([*two_masks, "--ids", str(tmp_path / "ids.txt")]) == 1
    assert said in capsys.readouterr().err


def test_table_says_what_was_not_measured():
    section = {"split": "train", "num_images": 3, "miou": 0.5, "miou_best_bg": None}
    text = metrics_table({"pseudo_label": section, "tags": {"map": None}})
    assert "50.0" in text
    assert text.count("not measured") == 2
    assert "F1" not in text
    text = metrics_table({"tags": {"map": 0.75, "mask_f1": 0.25}})
    assert [line.split()[-1] for line in text.splitlines()[-2:]] == ["75.0", "25.0"]


def test_table_shows_masks_without_a_labelled_pixel():
    section = {"split": "val", "num_images": 2, "miou": None, "miou_best_bg": None}
    rounds = [{"round": 1, "cam": None, "pseudo_label": None, "segmenter": section}]
    text = metrics_table({"segmenter": section, "rounds": rounds})
    assert text.splitlines()[3].split() == ["segmenter", "val", "2", "-"]
    assert text.splitlines()[4] == "round 1: segmenter -"


def test_names_that_the_terminal_cannot_show_stop_nothing(two_masks, tmp_path):
    (tmp_path / "classes.txt").write_text("\u725b\n", encoding="utf-8")
    target = tmp_path / "numbers.json"
    command = [sys.executable, "-m", "dscnet.cli", *two_masks, "--json", str(target)]
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert b"\\u725b" in done.stdout
    assert json.loads(target.read_text(encoding="utf-8"))["iou"]["\u725b"] == 1


def test_evaluate_writes_before_it_prints(two_masks, tmp_path, monkeypatch):
    target = tmp_path / "numbers.json"

    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Closed())
    assert main([*two_masks, "--json", str(target)]) == 1
    assert target.exists()


def test_evaluate_lists_what_it_could_not_measure_at_the_end(two_masks, tmp_path, capsys):
    (tmp_path / "pred" / "my photo.png").write_bytes(b"no picture")
    hidden = tmp_path / "gt" / ".ipynb_checkpoints" / "x.png"
    hidden.parent.mkdir()
    Image.new("L", (2, 2)).save(hidden)
    assert main(two_masks) == 1
    said = capsys.readouterr()
    assert "1 photos, percent" in said.out
    first, *_, last = said.err.splitlines()
    assert first.startswith("1 hidden or system files") and "x.png" in first
    assert last.startswith("not evaluated: ") and "my photo.png" in last
