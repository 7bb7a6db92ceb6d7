from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from PIL import Image

from dscnet.cli import main
from dscnet.config import Config
from dscnet.config.settings import to_dict
from dscnet.experiments.grid import shard_of
from dscnet.metrics.evaluation import write_metrics
from dscnet.run_folder import RunFolder
from dscnet.tables import figures
from dscnet.tables import make as tables
from dscnet.tables.runs import Cell, Request, identity, plan, stages
from dscnet.tables.specs import BASES, TABLES
from helpers import small_config, without


@pytest.fixture(scope="module")
def place(scenes, tmp_path_factory) -> Path:
    """A folder with scenes, a recipe, and the runs of two rows of Table IV in ``out``."""
    root = tmp_path_factory.mktemp("tables")
    without(scenes, root / "scenes")
    config = small_config(root / "scenes", {"train.epochs": 1, "segment.epochs": 1})
    (root / "tiny.yaml").write_text(yaml.safe_dump(to_dict(config)))
    variants = ["--variants", "baseline", "M4"]
    assert main(["tables", "IV", *words(root), *variants]) == 0
    return root


@pytest.fixture
def without_plots(monkeypatch):
    """Tables are written as on a machine without matplotlib, which takes a second to draw one.

    Plots are drawn for ``place`` and by the test that collects every table.
    """
    monkeypatch.setattr(figures, "can_plot", lambda: False)


@pytest.fixture
def pretended(monkeypatch) -> list[Path]:
    """Folders of the runs that tables ask for; none is run."""
    folders: list[Path] = []

    def pretend(runs, **_):
        folders.extend(each.folder for each in runs)
        return iter(())

    monkeypatch.setattr(tables, "run_all", pretend)
    return folders


def words(root: Path) -> list[str]:
    places = ["--seam", str(root / "tiny.yaml"), "--data", str(root / "scenes")]
    chosen = ["--bases", "seam", "--seeds", "0", "--cam.batch_size", "3"]
    return [*places, *chosen, "--out", str(root / "out")]


def reached(root: Path, variant: str, section: str = "segmenter") -> float:
    path = root / "out" / "tiny" / f"{variant}-s0" / "metrics.json"
    return 100 * json.loads(path.read_text())[section]["miou"]


def numbers(path: Path) -> dict[tuple[str, str, str], float]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {(r["row"], r["column"], r["seed"]): float(r["value"]) for r in rows}


def states(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (root / "out").rglob("*.safetensors")}


def test_a_table_holds_what_its_runs_reached_beside_the_papers_numbers(place):
    found = numbers(place / "out" / "IV.csv")
    ours = {row: value for (row, _, seed), value in found.items() if seed == "0"}
    assert ours == pytest.approx(
        {"SEAM": reached(place, "baseline"), "SEAM +M4": reached(place, "M4")}
    )
    assert found["SEAM +M2", "val", "paper"] == 65.4
    lines = (place / "out" / "IV.md").read_text().splitlines()
    assert f"| SEAM +M4 | {reached(place, 'M4'):.1f} (1) | 67.7 |" in lines
    assert "| SEAM +M1 | not run | 66.1 |" in lines
    assert "| AuxSegNet | not run | 69.0 |" in lines
    assert any("recipe `tiny`, data `scenes`" in line for line in lines)


def test_the_json_says_how_the_numbers_came_about(place):
    content = json.loads((place / "out" / "IV.json").read_text())
    assert str(place) not in json.dumps(content["settings"])
    assert content["settings"]["seam"]["cam"]["batch_size"] == 3, "said on the command line"
    assert content["settings"]["seam"]["train"]["epochs"] == 1, "of the recipe"
    runs = {run["variant"]: run for run in content["runs"]}
    assert runs["M1"]["metrics"] is None
    assert runs["M4"]["seconds"].keys() >= {"train", "segment"}
    assert runs["M4"]["environment"]["seed"] == 0
    assert content["failed"] == []


@pytest.mark.usefixtures("without_plots")
def test_finished_runs_are_only_read_and_other_tables_share_them(place):
    before = states(place)
    table = (place / "out" / "IV.csv").read_text()
    assert main(["tables", "IV", *words(place), "--variants", "baseline", "M4"]) == 0
    assert main(["tables", "II", *words(place)]) == 0
    assert states(place) == before
    assert (place / "out" / "IV.csv").read_text() == table
    found = numbers(place / "out" / "II.csv")
    assert found["DSCNet+SEAM", "val", "0"] == pytest.approx(reached(place, "M4"))
    assert ("DSCNet+SEAM", "test", "0") not in found
    assert found["DSCNet+SEAM", "val", "paper"] == 67.7
    assert found["CPN [ICCV21], ResNet38", "val", "published"] == 67.8
    text = (place / "out" / "II.md").read_text()
    assert text.startswith("# Table II: Baselines with and without DSCNet; ours on scenes\n")
    assert "| CPN [ICCV21], ResNet38 | - | 67.8 | - | 68.5 |" in text


def test_figure_5_shows_photos_of_runs_that_are_there(place):
    assert main(["tables", "figure5", *words(place), "--collect", "--photos", "2"]) == 0
    # Two rows of photo, true mask, baseline and M4, 64 pixels each.
    with Image.open(place / "out" / "figure5-seam.png") as picture:
        assert picture.size == (6 + 4 * 70, 18 + 2 * 70)


@pytest.mark.usefixtures("without_plots")
def test_another_measure_is_said_and_kept_apart(place):
    argv = ["tables", "IV", *words(place), "--collect", "--measure", "pseudo_label.miou"]
    assert main(argv) == 0
    found = numbers(place / "out" / "IV-pseudo_label.miou.csv")
    assert found["SEAM", "val", "0"] == pytest.approx(reached(place, "baseline", "pseudo_label"))
    text = (place / "out" / "IV-pseudo_label.miou.md").read_text()
    assert "The paper has no `pseudo_label.miou`" in text
    assert "ours of the training photos" in text


@pytest.mark.usefixtures("without_plots")
def test_runs_of_other_settings_are_neither_trained_over_nor_counted(place, tmp_path, capsys):
    before = states(place)
    argv = ["tables", "II", *words(place), "--train.epochs", "2"]
    assert main(argv) == 1
    assert "train.epochs: 1 there, 2 here" in capsys.readouterr().err
    assert main([*argv, "--collect"]) == 0
    assert "| SEAM | not run |" in capsys.readouterr().out
    assert states(place) == before
    assert main(["tables", "II", *words(place)]) == 0, "the table as it was"


@pytest.mark.usefixtures("without_plots")
def test_runs_on_other_data_are_neither_trained_over_nor_counted(place, tmp_path, capsys):
    before = states(place)
    shutil.copytree(place / "scenes", tmp_path / "others")
    argv = ["tables", "II", *words(place), "--data", str(tmp_path / "others")]
    assert main(argv) == 1
    assert "data: scenes there, others here" in capsys.readouterr().err
    assert main([*argv, "--collect"]) == 0
    assert "| SEAM | not run |" in capsys.readouterr().out
    assert states(place) == before
    # The same data at another place is no other.
    shutil.copytree(place / "scenes", tmp_path / "scenes")
    argv = ["tables", "II", *words(place), "--data", str(tmp_path / "scenes"), "--collect"]
    assert main(argv) == 0
    assert "| SEAM | not run |" not in capsys.readouterr().out
    assert main(["tables", "II", *words(place)]) == 0, "the table as it was"


@pytest.mark.usefixtures("without_plots")
def test_runs_of_an_earlier_tables_file_need_no_folder(place, tmp_path, capsys):
    argv = ["tables", "II", *words(place), "--out", str(tmp_path), "--earlier"]
    before = states(place)
    assert main([*argv, str(place / "out" / "IV.json")]) == 0
    assert states(place) == before
    assert not list(tmp_path.rglob("*.safetensors")), "nothing was run"
    found = numbers(tmp_path / "II.csv")
    assert found["DSCNet+SEAM", "val", "0"] == pytest.approx(reached(place, "M4"))
    revision = json.loads((place / "out" / "IV.json").read_text())["runs"][0]["environment"]
    assert f"`IV.json`: 2 runs, revision {revision['git_revision']}." in capsys.readouterr().out

    # Their records go on to the next table; other settings, data and measures are other runs.
    assert main([*argv, str(tmp_path / "II.json"), "--collect"]) == 0
    assert numbers(tmp_path / "II.csv") == found
    assert "`II.json`: 2 runs" in capsys.readouterr().out
    others = ["--train.epochs", "2"], ["--seeds", "1"], ["--data", str(place / "other")]
    for other in others:
        # Not of II.json, which each of these calls writes anew.
        assert main([*argv, str(place / "out" / "IV.json"), "--collect", *other]) == 0
        assert "| SEAM | not run |" in capsys.readouterr().out
    measure = ["--measure", "tags.mask_f1", "--collect"]
    content = json.loads((place / "out" / "IV.json").read_text())
    for run in content["runs"]:
        (run["metrics"] or {"tags": {}})["tags"].pop("mask_f1", None)
    (tmp_path / "before.json").write_text(json.dumps(content))
    assert main([*argv, str(tmp_path / "before.json"), *measure]) == 0
    assert "| SEAM | not run |" in capsys.readouterr().out


@pytest.mark.usefixtures("without_plots")
def test_earlier_runs_are_not_run_and_shift_no_part(tmp_path, pretended):
    cells = plan(request(tmp_path))
    known = cells[3]
    key = identity(known.run.config, known.seed)
    record = {"metrics": {"segmenter": {"miou": 0.5}}, "source": "x"}
    record["environment"] = {"git_revision": "abc"}
    for index in (1, 2):
        pretended.clear()
        tables.make_table(request(tmp_path, shard=(index, 2), earlier={key: record}))
        part = [cell.run.folder for cell in shard_of(cells, index, 2)]
        assert pretended == [folder for folder in part if folder != known.run.folder]


@pytest.mark.parametrize(("model", "said"), [("seam", ""), ("auxsegnet", "auxseg.before")])
def test_settings_of_auxsegnet_are_asked_of_it_alone(place, tmp_path, capsys, model, said):
    content = json.loads((place / "out" / "IV.json").read_text())
    content["settings"]["seam"]["auxseg"] = {"before": 1}
    content["settings"]["seam"]["model"]["name"] = model
    (tmp_path / "IV.json").write_text(json.dumps(content))
    argv = ["tables", "II", *words(place), "--out", str(tmp_path / "out"), "--collect"]
    assert main([*argv, "--earlier", str(tmp_path / "IV.json")]) == bool(said)
    output = capsys.readouterr()
    assert said in output.err
    assert ("`IV.json`: 2 runs" in output.out) == (not said)


def test_earlier_files_that_do_not_fit_are_refused(place, tmp_path, capsys):
    content = json.loads((place / "out" / "IV.json").read_text())
    del content["settings"]["seam"]["method"]["class_similarity"]
    content["settings"]["seam"]["method"]["recall"] = 0.15
    (tmp_path / "old.json").write_text(json.dumps(content))
    (tmp_path / "other.json").write_text("[]")
    (tmp_path / "torn.json").write_text("{")
    for name, message in {
        "old.json": "made by another version of dscnet, whose settings differ in method.cl",
        "other.json": "not the JSON file of a table",
        "torn.json": "not JSON",
        "none.json": "cannot be read",
    }.items():
        argv = ["tables", "II", *words(place), "--out", str(tmp_path / "out"), "--earlier"]
        assert main([*argv, str(tmp_path / name)]) == 1
        assert f"{name}: {message}" in capsys.readouterr().err


def request(tmp_path: Path, name: str = "IV", **changes) -> Request:
    configs = {base: Config(data="x") for base in ("seam", "auxsegnet")}
    configs["auxsegnet"].model.name = "auxsegnet"
    values = {
        "name": name,
        "configs": configs,
        "recipes": {"seam": "a", "auxsegnet": "b"},
        "out": tmp_path,
        "seeds": [0, 1, 2],
    }
    return Request(**(values | changes))


def hand_made(cell: Cell, miou: float) -> None:
    """A finished run of this cell whose network reached so much, and its labels 10 points less."""
    folder = RunFolder(cell.run.folder)
    folder.create()
    folder.write_config(cell.run.config)
    folder.finish("evaluate", "x", 1.0)
    reached = {"segmenter": {"miou": miou}, "pseudo_label": {"miou": miou - 0.1}}
    write_metrics(folder.metrics, reached)


@pytest.mark.usefixtures("without_plots")
def test_every_number_is_that_of_its_own_run(tmp_path):
    asked = request(tmp_path, collect=True, seeds=[0, 1])
    values: dict[tuple[str, str, str], float] = {}
    for index, cell in enumerate(plan(asked)):
        if cell.variant == "M2" and cell.seed == 1:
            continue
        hand_made(cell, index / 100)
        row = BASES[cell.base] + ("" if cell.variant == "baseline" else f" +{cell.variant}")
        values[row, "val", str(cell.seed)] = index
    assert tables.make_table(asked) == 0
    found = numbers(tmp_path / "IV.csv")
    assert {k: v for k, v in found.items() if k[2] in "01"} == pytest.approx(values)
    # Ten runs a seed, in one order: 3 and 13 for SEAM +M3, whose deviation is sqrt(50).
    assert found["SEAM +M3", "val", "mean"] == pytest.approx(8)
    assert found["SEAM +M3", "val", "std"] == pytest.approx(50**0.5)
    lines = (tmp_path / "IV.md").read_text().splitlines()
    assert "| SEAM +M3 | 8.0 ± 7.1 (2) | 66.6 |" in lines
    assert "| SEAM +M2 | 2.0 (1) | 65.4 |" in lines


@pytest.mark.usefixtures("without_plots")
def test_settings_of_auxsegnets_rounds_do_not_concern_seams_runs(tmp_path):
    """So that ``--auxseg.cams`` can be given to a table of both."""
    asked = request(tmp_path, "II", collect=True, seeds=[0])
    for cell in plan(asked):
        hand_made(cell, 0.5)
    for config in asked.configs.values():
        config.auxseg.cams = "plain/baseline-s{seed}/cams"
    assert tables.make_table(asked) == 0
    found = numbers(tmp_path / "II.csv")
    assert {row for row, _, seed in found if seed == "0"} == {"SEAM", "DSCNet+SEAM"}


@pytest.mark.usefixtures("without_plots")
def test_figure_6_names_its_highest_point(tmp_path):
    asked = request(tmp_path, "figure6", collect=True, seeds=[0], weights=(0.2, 0.4))
    for cell in plan(asked):
        hand_made(cell, 0.9 if cell.variant == "M4-a0.2-b0.4" else 0.5)
    assert tables.make_table(asked) == 0
    text = (tmp_path / "figure6.md").read_text()
    assert "- Ours, SEAM: highest at alpha 0.2, beta 0.4: 90.0, seen on val masks." in text
    assert "| AuxSegNet, alpha 0.2 | 50.0 (1) | 90.0 (1) |" in text
    assert "alpha (method.pgcl_weight) 0.6 and beta (method.sgcl_weight) 0.4" in text
    assert tables.make_table(replace(asked, measure="pseudo_label.miou")) == 0
    text = (tmp_path / "figure6-pseudo_label.miou.md").read_text()
    assert "highest at alpha 0.2, beta 0.4: 80.0, seen on masks of the training photos." in text


@pytest.mark.parametrize("count", range(1, 8))
def test_shards_are_all_runs_and_share_none(tmp_path, count):
    cells = plan(request(tmp_path))
    assert len({cell.run.folder for cell in cells}) == 2 * 5 * 3
    parts = [shard_of(cells, index, count) for index in range(1, count + 1)]
    folders = [cell.run.folder for part in parts for cell in part]
    assert sorted(folders) == sorted(cell.run.folder for cell in cells)
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.usefixtures("without_plots")
def test_a_run_that_measured_nothing_is_no_run_that_is_not_there(place, tmp_path, capsys):
    root = tmp_path / "copy"
    shutil.copytree(place, root)
    path = root / "out" / "tiny" / "baseline-s0" / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["segmenter"]["miou"] = None
    path.write_text(json.dumps(metrics))
    assert main(["tables", "II", *words(root), "--collect"]) == 0
    said = capsys.readouterr().out
    assert "| SEAM | not measured |" in said and "| AuxSegNet | not run |" in said


def test_an_unknown_measure_is_refused(place, capsys):
    assert main(["tables", "II", *words(place), "--collect", "--measure", "segmenter.mIoU"]) == 2
    assert "--measure must be one of segmenter.miou, " in capsys.readouterr().err


def test_a_shard_writes_runs_and_no_table(tmp_path, pretended):
    for index in (1, 2):
        tables.make_table(request(tmp_path, shard=(index, 2)))
    assert len(set(pretended)) == len(pretended) == 30
    assert list(tmp_path.iterdir()) == []


def test_a_point_of_figure_6_that_is_the_recipes_own_is_its_m4(tmp_path):
    cells = plan(request(tmp_path, "figure6", weights=(0.1, 0.3), seeds=[5]))
    folders = {cell.variant: cell.run.folder for cell in cells if cell.base == "seam"}
    assert folders["M4-a0.3-b0.1"] == tmp_path / "a" / "M4-s5"
    assert folders["M4-a0.1-b0.3"] == tmp_path / "a" / "M4-a0.1-b0.3-s5"
    settings = next(c.run.config.method for c in cells if c.variant == "M4-a0.1-b0.3")
    assert (settings.pgcl_weight, settings.sgcl_weight) == (0.1, 0.3)


def test_the_segmentation_network_is_trained_only_where_it_is_looked_at(tmp_path):
    assert "segment" in stages(request(tmp_path))
    pseudo = request(tmp_path, measure="pseudo_label.miou")
    assert "segment" not in stages(pseudo)
    assert "segment" in stages(replace(pseudo, name="figure5"))


@pytest.mark.usefixtures("without_plots")
def test_seconds_are_measured_once(tmp_path, place, monkeypatch):
    timed: list[str] = []
    for name in ("training_step", "contrast_step"):
        step = "step" if name == "training_step" else "contrast"
        monkeypatch.setattr(
            tables,
            name,
            lambda config, batch, classes, step=step: (
                lambda: timed.append(f"{config.method.contrast} {step}")
            ),
        )
    asked = request(tmp_path, "V", configs={"seam": Config(data=str(place / "scenes"))})
    asked.configs["seam"].augment.crop_size = 32
    monkeypatch.setattr(tables, "run_all", lambda runs, **_: iter(()))
    assert tables.make_table(asked) == 0
    turn = ["pixels step", "pixels contrast", "groups step", "groups contrast"]
    assert timed == turn * (1 + tables.TIMED_STEPS)
    assert tables.make_table(asked) == 0
    assert len(timed) == len(turn) * (1 + tables.TIMED_STEPS), "the second time they are read"
    found = numbers(tmp_path / "V.csv")
    assert found["SEAM", "groups s/iteration", "paper"] == 0.88
    assert {seed for row, column, seed in found if column == "groups s/contrast alone"} == {
        *map(str, range(tables.TIMED_STEPS)),
        "mean",
        "std",
    }


@pytest.mark.usefixtures("without_plots")
def test_failures_are_counted_and_named(tmp_path, monkeypatch):
    row = {"variant": "SEAM M1", "seed": 1, "error": "too warm"}
    monkeypatch.setattr(tables, "run_all", lambda runs, **_: iter([row]))
    assert tables.make_table(request(tmp_path)) == 1
    assert "- Failed: SEAM M1, seed 1: too warm" in (tmp_path / "IV.md").read_text()
    assert json.loads((tmp_path / "IV.json").read_text())["failed"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shard": (3, 2)}, "I in 1..N, got 3/2"),
        ({"variants": ["M9"]}, "IV has no variant M9; it has baseline, M1"),
        ({"configs": {"auxsegnet": Config(data="x")}}, "recipe b has model.name: seam"),
        ({"configs": {"seam": Config()}}, "--data"),
    ],
)
def test_what_cannot_be_made_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        tables.make_table(request(tmp_path, **changes))


@pytest.mark.parametrize("name", TABLES)
def test_every_table_can_be_collected_from_nothing(tmp_path, name):
    assert tables.make_table(request(tmp_path, name, collect=True)) == 0
    assert "not run" in (tmp_path / f"{name}.md").read_text()
    assert (tmp_path / f"{name}.png").exists() == figures.can_plot()


def test_an_unknown_table_is_wrong_usage_with_a_hint(capsys):
    assert main(["tables", "figure7", "--out", "x"]) == 2
    assert "did you mean figure" in capsys.readouterr().err
