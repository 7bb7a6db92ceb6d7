from __future__ import annotations

import json

import pytest

from dscnet.config import AugmentConfig, CamConfig, Config, TrainConfig
from dscnet.data.scenes import write_scenes
from dscnet.experiments import VARIANTS, run_grid, summarise, table, write_results


def row(variant: str, seed: int, miou: float | None) -> dict:
    section = None if miou is None else {"miou": miou / 2, "miou_best_bg": miou}
    return {"variant": variant, "seed": seed, "cam": section, "tags": {"map": None}}


def test_summary_is_mean_and_sample_deviation():
    summary = summarise([row("M1", 0, 0.5), row("M1", 1, 0.7), row("M2", 0, 0.4)])
    assert summary["M1"]["cam.miou_best_bg"] == {
        "mean": pytest.approx(0.6),
        "std": pytest.approx(0.1 * 2**0.5),
        "seeds": 2,
    }
    assert summary["M2"]["cam.miou_best_bg"]["std"] is None


def test_what_was_not_measured_is_left_out():
    assert summarise([row("M1", 0, None)]) == {"M1": {}}


def test_table_says_not_run():
    text = table(summarise([row("M1", 0, 0.5), row("M2", 0, None)]))
    assert "| M1 | 25.0 (1) | 50.0 (1) |" in text
    assert "| M2 | not run | not run |" in text


def test_variants_are_the_papers_table():
    assert list(VARIANTS) == ["baseline", "M1", "M2", "M3", "M4"]


def test_a_grid_runs_resumes_and_is_written(tmp_path):
    scenes = tmp_path / "scenes"
    write_scenes(scenes, num_train=8, num_val=2, size=64, seed=0)
    config = Config(
        data=str(scenes),
        augment=AugmentConfig(crop_size=64, long_side=[64, 96]),
        train=TrainConfig(epochs=1, batch_size=4, accelerator="cpu"),
        cam=CamConfig(scales=[1.0], flip=False),
    )
    variants = {name: VARIANTS[name] for name in ("baseline", "M4")}
    options = {
        "stages": ["train", "cam", "label", "evaluate"],
        "strict_masks": scenes / "SegmentationClass",
    }
    rows = run_grid(config, tmp_path / "runs", variants, [0], **options)
    assert [(r["variant"], r["seed"]) for r in rows] == [("baseline", 0), ("M4", 0)]
    assert rows[0]["cam_strict"]["miou"] == pytest.approx(rows[0]["cam"]["miou"])
    weights = tmp_path / "runs" / "M4-s0" / "checkpoints" / "weights.safetensors"
    before = weights.stat().st_mtime_ns
    assert run_grid(config, tmp_path / "runs", variants, [0], **options) == rows
    assert weights.stat().st_mtime_ns == before
    write_results(tmp_path / "out.json", rows, command="test", config=config)
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["rows"] == rows
    assert content["summary"] == summarise(rows)
    assert content["settings"]["data"] == "scenes", "no path of the machine goes into a result"
