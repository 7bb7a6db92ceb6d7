"""The refinement step and the stage of docs/extending.md, run as plugins by the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from dscnet.cli import main
from dscnet.data.scenes import write_scenes
from dscnet.files.label_images import read_labels
from dscnet.labels.cam_files import read_cam
from dscnet.pipeline import registry
from dscnet.plugins import VARIABLE, load_plugins
from dscnet.refine import steps
from test_plugin_format import TINY, example

PLUGINS = {"toy_step": "A refinement step", "toy_stage": "A stage"}


@pytest.fixture
def plugins(tmp_path, monkeypatch):
    """Both examples as modules outside the package, named in the environment."""
    for name, heading in PLUGINS.items():
        (tmp_path / f"{name}.py").write_text(example(heading), encoding="utf-8")
    monkeypatch.setattr(steps, "_REGISTERED", {})
    monkeypatch.setattr(registry, "_STAGES", list(registry._STAGES))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(VARIABLE, ",".join(PLUGINS))
    load_plugins.cache_clear()
    yield
    for name in PLUGINS:
        sys.modules.pop(name, None)
    load_plugins.cache_clear()


@pytest.fixture
def command(tmp_path) -> list[str]:
    write_scenes(tmp_path / "scenes", num_train=8, num_val=2, size=64, seed=0)
    places = ["--data", str(tmp_path / "scenes"), "--out", str(tmp_path / "run")]
    own = ["--label.bg_score", "0.3", "--refine.steps", "[smooth]"]
    return ["run", *places, *TINY, *own, "--extensions", "{smooth: {window: 5}}"]


def test_a_documented_step_and_stage_run_to_the_end(plugins, command, tmp_path, caplog):
    caplog.set_level("INFO", "dscnet")
    assert main(command) == 0
    out = tmp_path / "run"
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert [step["step"] for step in metrics["refine"]["steps"]] == ["smooth"]
    records = json.loads((out / "stages.json").read_text(encoding="utf-8"))
    assert list(records).index("label") < list(records).index("coverage")
    coverage = json.loads((out / "coverage.json").read_text(encoding="utf-8"))
    labels = [read_labels(path) for path in sorted((out / "labels").glob("*.png"))]
    for label, share in enumerate(coverage.values(), 1):
        assert share == pytest.approx(np.mean([one == label for one in labels]))
    assert main([*command, "--resume"]) == 0
    assert "coverage: up to date" in caplog.messages


def test_what_the_step_gives_is_what_it_says(plugins, command, tmp_path):
    assert main([*command, "--refine.certainty", "1.0"]) == 0
    out = tmp_path / "run"
    for path in sorted((out / "refined").glob("*.npz")):
        maps, classes = read_cam(path)
        before = read_labels(out / "refined" / "before" / f"{path.stem}.png")
        for label, smooth in zip(classes + 1, maps["smooth"], strict=True):
            share = functional.avg_pool2d(
                torch.from_numpy((before == label).astype(np.float32))[None],
                *(5, 1, 2),
                count_include_pad=False,
            )[0]
            np.testing.assert_allclose(smooth, share, atol=1e-3)


def test_the_code_and_settings_of_plugins_count(plugins, command, tmp_path, capsys):
    assert main(command) == 0
    records = json.loads((tmp_path / "run" / "stages.json").read_text(encoding="utf-8"))
    assert "toy_stage" in records["coverage"]["inputs"]["code"]
    changed = [word.replace("window: 5", "window: 3") for word in command]
    refined = tmp_path / "run" / "refined"
    before = {path: path.read_bytes() for path in refined.glob("*.npz")}
    assert main([*changed, "--resume"]) == 1
    assert "extensions.smooth.window was 5, is now 3" in capsys.readouterr().err
    assert (
        main(["refine", "--out", str(tmp_path / "run"), "--extensions", "{smooth: {window: 3}}"])
        == 0
    )
    assert any(path.read_bytes() != data for path, data in before.items())


def test_its_own_check_comes_before_training(plugins, command, tmp_path, capsys):
    even = [word.replace("window: 5", "window: 4") for word in command]
    assert main(even) == 1
    assert "extensions.smooth.window must be odd, got 4" in capsys.readouterr().err
    assert not Path(tmp_path / "run").exists()


@pytest.mark.parametrize(("name", "after"), [("train", "label"), ("new", "nothing")])
def test_a_stage_needs_a_new_name_and_a_place(name, after):
    stage = registry.Stage(name, lambda job, resume: None)
    with pytest.raises(ValueError, match=f"got '{name}' after '{after}'"):
        registry.register_stage(stage, after=after)
