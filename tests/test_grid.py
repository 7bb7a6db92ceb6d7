from __future__ import annotations

import json
import shutil
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool

import pytest
import torch
from PIL import Image

from dscnet.config import AuxSegConfig, Config
from dscnet.config.settings import replace_settings
from dscnet.data import open_dataset
from dscnet.experiments import grid as experiments
from dscnet.experiments.comparison import paired, summarise
from dscnet.experiments.grid import VARIANTS, of_seed, read_variants, run_grid, sweep, write_results
from dscnet.types import DscnetError
from helpers import small_config


def test_variants_are_the_papers_table():
    assert list(VARIANTS) == ["baseline", "M1", "M2", "M3", "M4"]


def tiny(scenes) -> Config:
    return small_config(scenes, {"train.epochs": 1})


STAGES = ["train", "cam", "label", "evaluate"]


def test_a_grid_runs_resumes_and_is_written(scenes, tmp_path):
    config = tiny(scenes)
    variants = {name: VARIANTS[name] for name in ("baseline", "M4")}
    options = {"stages": STAGES, "strict_masks": scenes / "SegmentationClass"}
    rows = list(run_grid(config, tmp_path / "runs", variants, [0], **options))
    assert [(r["variant"], r["seed"]) for r in rows] == [("baseline", 0), ("M4", 0)]
    assert rows[0]["cam_strict"]["miou"] == pytest.approx(rows[0]["cam"]["miou"])
    assert rows[0]["bg_criterion"] == config.criterion
    weights = tmp_path / "runs" / "M4-s0" / "checkpoints" / "weights.safetensors"
    before = weights.stat().st_mtime_ns
    assert list(run_grid(config, tmp_path / "runs", variants, [0], **options)) == rows
    assert weights.stat().st_mtime_ns == before
    write_results(tmp_path / "out.json", rows, command="test", config=config, variants=variants)
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["rows"] == rows
    assert content["variants"] == variants
    assert content["summary"] == summarise(rows)
    assert content["paired"] == paired(rows, "baseline")
    assert content["settings"]["data"] == "scenes", "no path of the machine goes into a result"


def test_shards_make_the_runs_of_a_sweep_and_collecting_its_results(scenes, tmp_path, capsys):
    variants = {name: VARIANTS[name] for name in ("baseline", "M4")}
    out, results = tmp_path / "runs", tmp_path / "runs" / "sweep.json"
    arguments = (tiny(scenes), out, variants, [0])

    def part(index: int) -> list[str]:
        assert sweep(*arguments, stages=STAGES, shard=(index, 2)) == 0
        assert not capsys.readouterr().out and not results.exists()
        return sorted(folder.name for folder in out.iterdir())

    assert part(1) == ["baseline-s0"]
    assert sweep(*arguments, stages=STAGES, collect=True) == 0
    assert [row["variant"] for row in json.loads(results.read_text())["rows"]] == ["baseline"]
    results.unlink()
    capsys.readouterr()
    assert part(2) == ["M4-s0", "baseline-s0"]
    assert sweep(*arguments, stages=STAGES, collect=True) == 0
    collected, shown = json.loads(results.read_text()), capsys.readouterr().out
    assert sweep(*arguments, stages=STAGES) == 0
    assert collected["rows"] == json.loads(results.read_text())["rows"]
    assert shown == capsys.readouterr().out
    with pytest.raises(ValueError, match="I in 1..N, got 3/2"):
        sweep(*arguments, stages=STAGES, shard=(3, 2))


def test_the_seed_is_filled_into_texts(tmp_path):
    config = of_seed(Config(auxseg=AuxSegConfig(cams="plain/baseline-s{seed}/cams")), 3)
    assert (config.auxseg.cams, config.seed) == ("plain/baseline-s3/cams", 3)
    assert of_seed(Config(data="{other}"), 3) == Config(data="{other}", seed=3)


def test_runs_at_once_equal_runs_in_turn_and_a_failure_ends_none(scenes, tmp_path, capsys):
    variants = {
        "small steps": {"train.lr": 1e-3},
        "broken": {"train.lr": 1e30},
        "impossible": {"method.kmeans_init": "cam", "method.num_groups": 8},
        "baseline": {"method.variant": "baseline"},
    }
    for jobs in (1, 2):
        failed = sweep(tiny(scenes), tmp_path / str(jobs), variants, [1], stages=STAGES, jobs=jobs)
        assert failed == 2
    results = [json.loads((tmp_path / jobs / "sweep.json").read_text()) for jobs in ("1", "2")]
    times = dict.fromkeys(("seconds", "timing"))
    rows = [[{**row, **times} for row in result["rows"]] for result in results]
    assert rows[0] == rows[1]
    assert [row["variant"] for row in rows[0]] == list(variants)
    assert "lower the learning rate" in rows[0][1]["error"]
    assert "must be null with method.kmeans_init: cam" in rows[0][2]["error"]
    assert "Difference from small steps, paired by seed" in capsys.readouterr().out


def test_a_training_with_other_settings_is_not_overwritten(scenes, tmp_path):
    config, one = tiny(scenes), {"one": {"method.variant": "baseline"}}
    (before,) = run_grid(config, tmp_path, one, [0], stages=STAGES)
    weights = tmp_path / "one-s0" / "checkpoints" / "weights.safetensors"
    written = weights.stat().st_mtime_ns
    other = replace_settings(config, {"train.lr": 0.01})
    with pytest.raises(
        DscnetError,
        match=r"one-s0 already contains a run .*train\.lr: 0\.005 th",
    ):
        list(run_grid(other, tmp_path, one, [0], stages=["train"]))
    # Labels may be made again, and more rounds do not change the training.
    again = replace_settings(config, {"label.bg_score": 0.6, "auxseg.rounds": 5})
    (after,) = run_grid(again, tmp_path, one, [0], stages=STAGES)
    assert weights.stat().st_mtime_ns == written
    assert after["pseudo_label"]["bg_score"] == 0.6 != before["pseudo_label"]["bg_score"]
    # Nor are copied photos, but changed ones are.
    copied = shutil.copytree(scenes, tmp_path / scenes.name, copy_function=shutil.copyfile)
    again.data = str(copied)
    assert list(run_grid(again, tmp_path, one, [0], stages=STAGES)) == [after]
    Image.new("RGB", (64, 64)).save(open_dataset(copied, "train").samples[0].image_path)
    with pytest.raises(DscnetError, match="one-s0 contains a finished .* the train photos, their"):
        list(run_grid(again, tmp_path, one, [0], stages=STAGES))
    # What is there may be measured all the same.
    assert [r["variant"] for r in run_grid(again, tmp_path, one, [0], stages=STAGES[1:])] == ["one"]
    assert weights.stat().st_mtime_ns == written


def test_no_error_of_a_run_ends_the_others(monkeypatch, tmp_path, caplog):
    def too_large(config, out, **_):
        if config.seed == 0:
            raise torch.OutOfMemoryError("out of memory")
        return {}

    monkeypatch.setattr(experiments, "run", too_large)
    rows = list(run_grid(Config(), tmp_path, {"one": {}}, [0, 1], stages=STAGES))
    assert [row.get("error") for row in rows] == ["out of memory", None]
    assert "too_large" in caplog.text, "where it happened"


def test_a_process_that_dies_is_a_run_that_failed(monkeypatch, tmp_path):
    class Broken:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return False

        def submit(self, *_):
            future = Future()
            future.set_exception(BrokenProcessPool("a process ended"))
            return future

    monkeypatch.setattr(experiments, "start_pool", lambda jobs: Broken())
    rows = list(run_grid(Config(), tmp_path, {"one": {}}, [0, 1], stages=STAGES, jobs=2))
    assert sorted((row["seed"], row["error"]) for row in rows) == [
        (0, "a process ended"),
        (1, "a process ended"),
    ]


def test_no_job_is_refused(scenes, tmp_path):
    with pytest.raises(ValueError, match="jobs"):
        list(run_grid(tiny(scenes), tmp_path, VARIANTS, [0], stages=STAGES, jobs=0))


def test_variants_come_from_a_file(tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text("base: {}\nslow: {train.lr: 1e-3}\n")
    assert read_variants(path) == {"base": {}, "slow": {"train.lr": "1e-3"}}
    for wrong in ("- a\n", "a: 3\n", "{}\n", ""):
        path.write_text(wrong)
        with pytest.raises(ValueError, match=r"grid\.yaml"):
            read_variants(path)
