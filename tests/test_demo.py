from __future__ import annotations

import json

import yaml

import dscnet.demo as demo
from dscnet.cli import main
from dscnet.run_folder import RunFolder


def test_the_demo_runs_and_refuses_to_overwrite(tmp_path, monkeypatch, capsys):
    """A small and short one: that the whole one is good is seen by running it."""
    recipe = yaml.safe_load(demo.find_recipe("demo").read_text())
    recipe["train"]["epochs"] = recipe["segment"]["epochs"] = 1
    short = tmp_path / "short.yaml"
    short.write_text(yaml.safe_dump(recipe))
    monkeypatch.setattr(demo, "find_recipe", lambda name: short)
    monkeypatch.setattr(demo, "NUM_TRAIN", 8)
    monkeypatch.setattr(demo, "NUM_VAL", 2)
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "segmenter" in text
    assert str(out / "report.html") in text
    assert json.loads((out / "metrics.json").read_text())["segmenter"]["num_images"] == 2
    assert main(["demo", "--out", str(out)]) == 1
    assert "--resume continues" in capsys.readouterr().err

    # What an interrupted one goes on with: the scenes and what was finished of them stay.
    scene = next((out / "scenes" / "JPEGImages").iterdir())
    weights = RunFolder(out).weights
    drawn, trained = scene.stat().st_mtime_ns, weights.stat().st_mtime_ns
    (out / "metrics.json").unlink()
    assert main(["demo", "--out", str(out), "--resume"]) == 0
    assert (out / "metrics.json").exists()
    assert scene.stat().st_mtime_ns == drawn
    assert weights.stat().st_mtime_ns == trained
    assert main(["demo", "--out", str(out), "--resume", "--seed", "1"]) == 1
    assert "seed: 0 there, 1 here" in capsys.readouterr().err
