"""`run --resume` never trains over finished work: it goes on, or says what differs."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from dscnet.cli import main
from dscnet.config import Config
from dscnet.config.settings import replace_settings
from dscnet.pipeline import code_marks
from dscnet.pipeline.runner import run, run_single
from dscnet.run_folder import RunFolder
from dscnet.types import DscnetError
from helpers import small_config
from test_pipeline import finished  # noqa: F401

STAGES = ["train", "cam", "label", "segment"]


@pytest.fixture
def copy(finished, tmp_path) -> Path:  # noqa: F811
    return Path(shutil.copytree(finished, tmp_path / "copy"))


@pytest.fixture
def config(scenes) -> Config:
    return small_config(scenes)


def times(run_folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in run_folder.rglob("*") if path.is_file()}


def edit(monkeypatch, module: str, change) -> None:
    """Let the code of a module be another."""
    original = code_marks._file_of

    def file_of(name: str) -> Path:
        return change(original(name)) if name == module else original(name)

    monkeypatch.setattr(code_marks, "_file_of", file_of)
    code_marks.code_mark.cache_clear()


@pytest.fixture(autouse=True)
def forget_marks():
    yield
    code_marks.code_mark.cache_clear()


def with_text(folder: Path, old: str, new: str):
    def change(file: Path) -> Path:
        text = file.read_text(encoding="utf-8")
        assert old in text
        other = folder / file.name
        other.write_text(text.replace(old, new, 1), encoding="utf-8")
        return other

    return change


def test_a_comment_or_docstring_makes_nothing_run_again(copy, config, tmp_path, monkeypatch):
    before = times(copy)
    comment = with_text(tmp_path, "\ndef ", "\n# A comment.\ndef ")
    for module in ("dscnet.objective", "dscnet.labels.cam"):
        edit(monkeypatch, module, comment)
    run(config, copy, stages=STAGES, resume=True, progress=False)
    after = times(copy)
    changed = {Path(path).name for path in before if after[path] != before[path]}
    assert changed <= {"config.yaml", "environment.json"}


def test_other_code_of_a_training_is_refused_and_named(copy, config, tmp_path, monkeypatch):
    before = times(copy)
    edit(monkeypatch, "dscnet.objective", with_text(tmp_path, "return ", "return 0 or "))
    with pytest.raises(DscnetError, match="finished training of the CAM network.*dscnet.objective"):
        run(config, copy, stages=STAGES, resume=True, progress=False)
    assert times(copy) == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train.lr": 0.5}, r"the CAM network.*train\.lr was 0\.\d+, is now 0\.5"),
        ({"method.variant": "M1"}, r"the CAM network.*method\.variant was M4, is now M1"),
        ({"seed": 7}, "the CAM network.*seed was 0, is now 7"),
        ({"segment.lr": 0.5}, r"the segmentation network.*segment\.lr was"),
        ({"cam.flip": True}, r"segmentation.*'label' gives different results.*cam\.flip was False"),
    ],
)
def test_other_settings_are_refused_before_anything_is_touched(copy, config, change, said):
    before = times(copy)
    with pytest.raises(DscnetError, match=said) as raised:
        run(replace_settings(config, change), copy, resume=True, progress=False)
    assert "--force" in str(raised.value)
    assert times(copy) == before


def test_the_remedy_trains_again_and_keeps_the_rest(copy, config):
    other = replace_settings(config, {"segment.lr": 0.5})
    cam_network, segmenter = copy / "checkpoints/weights.safetensors", copy / "segmenter"
    before = cam_network.stat().st_mtime_ns, (segmenter / "weights.safetensors").stat().st_mtime_ns
    assert run_single("segment", other, copy, force=True, progress=False)
    after = cam_network.stat().st_mtime_ns, (segmenter / "weights.safetensors").stat().st_mtime_ns
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_settings_that_train_nothing_are_taken(copy, config):
    other = replace_settings(config, {"label.bg_score": 0.9})
    run(other, copy, stages=["train", "cam", "label"], resume=True, progress=False)
    assert json.loads((copy / "threshold.json").read_text())["used"] == 0.9


def test_a_run_of_an_earlier_version_is_refused_and_stays(copy, config):
    records = json.loads((copy / "stages.json").read_text())
    for record in records.values():
        record.pop("inputs")
        record["fingerprint"] = "of an earlier version"
    (copy / "stages.json").write_text(json.dumps(records))
    before = times(copy)
    with pytest.raises(DscnetError, match="earlier version of dscnet") as raised:
        run(config, copy, resume=True, progress=False)
    assert "The verbs of later stages use it as it is" in str(raised.value)
    assert times(copy) == before
    assert run_single("label", config, copy, progress=False)


def test_interrupted_work_of_other_settings_is_not_lost(copy, config):
    (copy / "checkpoints/weights.safetensors").unlink()
    records = json.loads((copy / "stages.json").read_text())
    mark = records["train"].pop("fingerprint")
    records["train"]["started"] = mark
    (copy / "stages.json").write_text(json.dumps(records))
    other = replace_settings(config, {"train.lr": 0.5})
    with pytest.raises(DscnetError, match=r"contains an interrupted training of the CAM.*lr was"):
        run(other, copy, resume=True, progress=False)
    # A training that left no checkpoint has nothing to lose.
    for checkpoint in (copy / "checkpoints").glob("last.ckpt"):
        checkpoint.unlink()
    run(other, copy, stages=["train"], resume=True, progress=False)


def test_weights_survive_a_restart_that_was_stopped_before_its_first_checkpoint(
    copy, config, monkeypatch
):
    weights, folder = RunFolder(copy).weights, copy / "checkpoints"
    before = weights.read_bytes()
    (folder / "tags.json").unlink()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("lightning.Trainer.fit", interrupt)
        run(config, copy, resume=True, progress=False)
    assert [path.name for path in folder.iterdir()] == [weights.name], "no checkpoint"
    other = replace_settings(config, {"train.lr": 0.5})
    with pytest.raises(DscnetError, match=r"training of the CAM.*train\.lr was .*now 0\.5"):
        run(other, copy, resume=True, progress=False)
    assert weights.read_bytes() == before


def interrupt(*args, **options):
    raise KeyboardInterrupt


@pytest.mark.parametrize("lost", ["cams", "labels", "masks", "threshold.json", "metrics.json"])
def test_lost_files_come_back_as_they_were(copy, config, lost):
    before = times(copy)
    path = copy / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    run(config, copy, resume=True, progress=False)
    assert set(times(copy)) == set(before)
    for trained in ("checkpoints", "segmenter"):
        weights = str(copy / trained / "weights.safetensors")
        assert times(copy)[weights] == before[weights], "nothing was trained again"


def test_lost_weights_are_trained_again(copy, config):
    lost = copy / "segmenter" / "weights.safetensors"
    expected = lost.read_bytes()
    lost.unlink()
    run(config, copy, resume=True, progress=False)
    assert lost.read_bytes() == expected


def test_refinement_steps_asked_for_are_the_difference(copy, config):
    other = replace_settings(config, {"refine.steps": ["pamr"]})
    with pytest.raises(DscnetError, match=r"refine\.steps was \[\], is now \['pamr'\]") as raised:
        run(other, copy, resume=True, progress=False)
    assert "certainty" not in str(raised.value), "it was not read before"


def test_the_commands_of_a_refusal_work_as_they_stand(copy, config, capsys):
    """A setting of an earlier stage: that stage runs first, with the setting."""
    change = ["--label.bg_score", "0.3"]
    assert main(["run", "--resume", "--out", str(copy), *change]) == 1
    commands = re.findall(r"`dscnet ([^`]+)`", capsys.readouterr().err)
    assert [command.split()[0] for command in commands] == ["label", "segment"]
    for command in commands:
        assert main(shlex.split(command)) == 0
    assert RunFolder(copy).read_config().label.bg_score == 0.3
    assert main(["run", "--resume", "--out", str(copy), *change]) == 0


def test_force_trains_again_and_nothing_else_rewrites_the_environment(copy):
    weights, environment = RunFolder(copy).segmenter_weights, copy / "environment.json"
    environment.write_text("{}")
    before = weights.stat().st_mtime_ns
    for verb in (["run", "--resume"], ["segment"], ["label"]):
        assert main([*verb, "--out", str(copy)]) == 0
    assert environment.read_text() == "{}"
    assert weights.stat().st_mtime_ns == before
    assert main(["segment", "--out", str(copy), "--force"]) == 0
    assert weights.stat().st_mtime_ns > before
    assert "versions" in environment.read_text()


def test_an_older_revision_stays_in_the_record_of_its_training(copy, monkeypatch):
    monkeypatch.setattr("dscnet.run_folder.git_revision", lambda: "newer")
    trained = RunFolder(copy).record_of("train")["git_revision"]
    assert trained != "newer"
    assert main(["evaluate", "--out", str(copy)]) == 0
    assert main(["report", "--out", str(copy), "--force"]) == 0
    assert RunFolder(copy).record_of("report")["git_revision"] == "newer"
    assert RunFolder(copy).record_of("train")["git_revision"] == trained
