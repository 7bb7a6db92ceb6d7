from __future__ import annotations

import inspect
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import yaml

from dscnet.cli import _with_config_file, main
from dscnet.config import Config
from dscnet.config import settings as reading
from dscnet.config.legacy import REMOVED, RENAMED, RENAMED_VALUES
from dscnet.config.recipes import list_recipes, read_config
from dscnet.config.settings import (
    current_settings,
    dotted_settings,
    from_dict,
    replace_settings,
    to_dict,
)
from dscnet.config.stages import STAGES
from dscnet.experiments.grid import read_variants, run_grid
from dscnet.run_folder import RunFolder
from dscnet.tables.earlier import read_runs
from dscnet.tables.runs import identity
from dscnet.types import DscnetError

OLD = Path(__file__).parent / "settings_f721f86.yaml"
"""What commit f721f86 wrote into the run folder of a run with default settings."""


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Notes are logged once per process; each test is to see its own."""
    monkeypatch.setattr(reading, "_noted", set())


@pytest.fixture
def notes(caplog):
    caplog.set_level(logging.WARNING, "dscnet")

    def texts() -> list[str]:
        return [record.getMessage() for record in caplog.records]

    return texts


def old_run(folder: Path, **changes: Any) -> RunFolder:
    """A run folder as f721f86 wrote it, with dotted settings changed."""
    values = yaml.safe_load(OLD.read_text())
    for dotted, value in changes.items():
        section, _, key = dotted.partition(".")
        assert key in values[section]
        values[section][key] = value
    folder.mkdir()
    run = RunFolder(folder)
    run.config.write_text(yaml.safe_dump(values))
    run.environment.write_text("{}")
    return run


def test_every_setting_of_an_old_run_is_known_renamed_or_removed():
    old = dotted_settings(yaml.safe_load(OLD.read_text()))
    assert len(old) == 174
    now = dotted_settings(to_dict(Config()))
    assert set(old) - set(now) == RENAMED.keys() | REMOVED.keys()
    assert set(RENAMED.values()) <= now.keys()
    assert not (RENAMED.keys() | REMOVED.keys()) & now.keys()


def test_the_fixed_values_are_the_defaults_of_before():
    old = dotted_settings(yaml.safe_load(OLD.read_text()))
    assert {name: removed.value for name, removed in REMOVED.items()} == {
        name: old[name] for name in REMOVED
    }


def test_what_is_computed_with_are_the_fixed_values():
    from dscnet.build import GROUP_BY, build_context, optimiser_settings
    from dscnet.context import DualStreamContext
    from dscnet.objective import ContrastObjective
    from dscnet.training import TrainingModule

    defaults = {"group_by": GROUP_BY}
    for made in (DualStreamContext, ContrastObjective):
        parameters = inspect.signature(made).parameters.values()
        defaults |= {one.name: one.default for one in parameters}
    training = inspect.signature(TrainingModule).parameters
    config = Config()
    for name, (value, *_) in REMOVED.items():
        section, key = name.split(".")
        if section == "method":
            assert defaults[key] == value, name
        elif key in ("momentum", "poly_power"):
            assert key not in optimiser_settings(getattr(config, section))
            assert training[key].default == value
        else:
            assert getattr(getattr(config, section), key) == value, name
    context = build_context(config.method, 8, 3)
    assert (context.embedding_dim, context.memory.size) == (128, 64)


def test_a_run_of_before_reads_with_one_note_of_each_kind(tmp_path, notes):
    run = old_run(tmp_path / "run", **{"method.likeness": 0.3, "auxseg.relabel": "branch"})
    config = run.read_config()
    assert (config.method.class_similarity, config.auxseg.self_training_source) == (0.3, "branch")
    assert config.scale.relative_to == "photo"
    renamed, removed = notes()
    assert renamed.startswith(f"{run.config}: renamed: ")
    assert "method.likeness is now method.class_similarity" in renamed
    assert "fixed at the values given there: method.group_by, " in removed
    assert all(name in removed for name in REMOVED)
    run.read_config()
    assert len(notes()) == 2, "logged once"


def test_it_is_written_under_the_new_names(tmp_path):
    run = old_run(tmp_path / "run")
    run.write_config(run.read_config())
    assert (
        dotted_settings(yaml.safe_load(run.config.read_text())).keys()
        == dotted_settings(to_dict(Config())).keys()
    )


def test_a_finished_run_with_another_value_reads_and_says_so(tmp_path, notes):
    run = old_run(tmp_path / "run", **{"method.fusion": "categories"})
    assert run.read_config().method == Config().method
    assert "fixed at OTHER values: method.fusion: 'categories', now 'groups'" in notes()[-1]
    kept = run.config.read_text()
    run.write_config(run.read_config())
    assert run.config.read_text() == kept, "nothing else records what it was"


@pytest.mark.parametrize("verb", ["cam", "run", "train"])
def test_nothing_is_computed_with_another_value(tmp_path, capsys, verb):
    run = old_run(tmp_path / "run", **{"method.fusion": "categories"})
    for config in ([], ["--config", str(run.config)]):
        assert main([verb, *config, "--data", "x", "--resume", "--out", str(run.root)]) == 1
        said = capsys.readouterr().err
        assert f"{run.config}: method.fusion is no longer a setting" in said
        assert "fixed at 'groups'" in said and "got 'categories'" in said
    with pytest.raises(ValueError, match="method.fusion is no longer a setting"):
        read_config(run.config)
    with pytest.raises(DscnetError, match="method.fusion is no longer a setting"):
        run.read_config(finished=False)


def test_the_report_of_a_finished_run_with_another_value_is_made(tmp_path):
    run = old_run(tmp_path / "run", **{"method.fusion": "categories"})
    words = _with_config_file(["report", "--out", str(run.root)])
    assert "categories" not in words[2] and "class_similarity" in words[2]


def test_a_file_of_before_is_read_by_the_command_line(tmp_path):
    run = old_run(tmp_path / "run", **{"method.likeness": 0.3})
    text = _with_config_file(["cam", "--out", str(run.root)])[2]
    config = from_dict(Config, yaml.safe_load(text))
    assert (config.method.class_similarity, config.scale.relative_to) == (0.3, "photo")
    assert "fusion" not in text


@pytest.mark.parametrize(
    "words",
    [
        ["--method.fusion", "categories"],
        ["--method.fusion=categories"],
        ["--irn.lr_warmup", "0.1"],
        ["--epochs", "3", "--train.momentum", "0.5"],
    ],
)
@pytest.mark.parametrize("verb", ["run", "cam", "sweep"])
def test_the_command_line_refuses_a_former_setting(verb, words, capsys):
    assert main([verb, "--data", "x", "--out", "y", *words]) == 2
    name = words[-2 if "=" not in words[-1] else -1].removeprefix("--").split("=")[0]
    said = capsys.readouterr().err
    assert said.startswith(f"dscnet {verb}: {name} is no longer a setting since version 0.1.0")
    assert "did you mean" not in said


@pytest.mark.parametrize(
    ("name", "value"),
    [("method.embedding_dim", "128"), ("irn.lr_warmup", "0"), ("train.momentum", "9e-1")]
    + [("method.fusion", "groups"), ("method.zero_init", "true"), ("irn.iterations", "null")],
)
def test_the_command_line_takes_a_former_setting_at_its_value_as_files_do(name, value, notes):
    section, _, key = name.partition(".")
    from_dict(Config, {section: {key: yaml.safe_load(value)}})
    assert [name in text for text in notes()] == [True]
    for words in ([f"--{name}", value], [f"--{name}={value}"]):
        typed = _with_config_file(["run", *words, "--out", "x"])
        assert typed == ["run", "--out", "x"]
    assert [name in text for text in notes()] == [True, True], "noted once"


def test_other_verbs_know_no_former_settings(capsys):
    assert main(["evaluate", "--method.fusion", "groups"]) == 2
    assert "no longer" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--method.likeness", "0.3", "--auxseg.relabel", "maps"],
        ["--method.likeness=0.3", "--auxseg.relabel=maps"],
        ["--method.class_similarity", "0.3", "--auxseg.self_training_source=maps"],
    ],
)
def test_the_command_line_takes_old_names(words, notes):
    from dscnet.command.arguments import build_parser

    typed = _with_config_file(["run", "--out", "x", *words])
    parsed = build_parser().parse_args(typed).run
    assert parsed.method.class_similarity == 0.3
    assert parsed.auxseg.self_training_source == "cam"
    deprecated = [text for text in notes() if "deprecated" in text]
    assert len(deprecated) == sum("likeness" in word or "relabel" in word for word in words)


def test_a_grid_takes_old_names_and_refuses_other_values(tmp_path):
    grid = tmp_path / "grid.yaml"
    grid.write_text(
        "plain: {method.likeness: 0.0, method.fusion: groups}\nother: {method.fusion: categories}\n"
    )
    variants = read_variants(grid)
    plain = replace_settings(Config(), variants["plain"])
    assert plain == replace_settings(Config(), {"method.class_similarity": 0.0})
    with pytest.raises(ValueError, match="method.fusion is no longer a setting"):
        next(run_grid(Config(data="x"), tmp_path / "runs", variants, [0], stages=["train"]))


def test_both_names_of_a_setting_are_refused():
    both = {"method": {"likeness": 0.1, "class_similarity": 0.2}}
    with pytest.raises(ValueError, match=r"method.likeness and method.class_similarity are the s"):
        from_dict(Config, both)


@pytest.mark.parametrize(("value", "same"), [("1e-4", True), (0.0001, True), ("fast", False)])
def test_a_number_is_compared_as_a_number(value, same):
    old = {"irn": {"weight_decay": value}}
    if same:
        assert from_dict(Config, old) == Config()
        return
    with pytest.raises(ValueError, match="irn.weight_decay is no longer a setting"):
        from_dict(Config, old)


def test_what_is_no_section_is_left_to_the_reader():
    assert current_settings({"train": None, "seed": 3}) == {"train": None, "seed": 3}


def test_values_of_before_have_a_new_one_that_is_valid():
    for name, values in RENAMED_VALUES.items():
        for old, new in values.items():
            assert replace_settings(Config(), {name: old}) == replace_settings(
                Config(), {name: new}
            )


def test_the_recipes_hold_no_setting_of_before(notes):
    for path in list_recipes().values():
        read_config(path)
    assert notes() == []


@pytest.mark.parametrize("fusion", ["groups", "categories"])
def test_the_runs_of_an_old_table_are_those_of_today(tmp_path, fusion):
    settings = yaml.safe_load(OLD.read_text()) | {"scale": to_dict(Config())["scale"]}
    settings["method"] |= {"likeness": 0.3, "fusion": fusion}
    record = {"base": "seam", "variant": "M4", "seed": 2, "metrics": {}}
    content = {
        "settings": {"seam": settings},
        "variants": {"M4": {"method.starts": "kmeans++"}},
        "runs": [record],
    }
    (tmp_path / "IV.json").write_text(json.dumps(content))
    if fusion == "categories":
        with pytest.raises(DscnetError, match="IV.json: method.fusion is no longer a setting"):
            read_runs([tmp_path / "IV.json"])
        return
    now = replace_settings(Config(data="photos"), {"method.class_similarity": 0.3})
    assert read_runs([tmp_path / "IV.json"]) == {identity(now, 2): record | {"source": "IV.json"}}


def test_the_order_of_the_stages_is_that_of_the_pipeline():
    from dscnet.pipeline.registry import list_stages

    assert tuple(stage.name for stage in list_stages()) == STAGES


def test_the_verbs_of_stages_come_in_their_order():
    from dscnet.command.arguments import STAGE_VERBS

    assert [stage for stage in STAGES if stage != "evaluate"] == list(STAGE_VERBS)
