from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import dscnet
from dscnet.config import Config, baselines
from dscnet.config.baselines import (
    CRITERIA,
    Baseline,
    find_baseline,
    list_baselines,
    register_baseline,
)
from dscnet.config.settings import from_dict, replace_settings
from dscnet.labels import thresholds
from dscnet.models import MODELS, AuxSegNet, PlainCam, Seam, create_model
from dscnet.plugins import VARIABLE, load_plugins
from tiny_backbone import TinyBackbone

PACKAGE = Path(dscnet.__file__).parent
NETWORKS = {"cam": PlainCam, "seam": Seam, "auxsegnet": AuxSegNet}


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    monkeypatch.setattr(baselines, "_BASELINES", dict(baselines._BASELINES))


def with_settings(name: str, **settings) -> Config:
    dotted = {key.replace("__", "."): value for key, value in settings.items()}
    return replace_settings(Config(), {"model.name": name, **dotted})


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_networks_are_where_their_declarations_say(name):
    assert find_baseline(name).factory() is MODELS[name] is NETWORKS[name]


def test_the_networks_by_name_are_a_view_of_what_is_declared():
    assert sorted(MODELS) == list_baselines() == sorted(NETWORKS) and len(MODELS) == 3
    assert "sean" not in MODELS
    register_baseline(Baseline("other", PlainCam))
    assert MODELS["other"] is PlainCam and list(MODELS) == list_baselines()
    assert type(create_model("other", TinyBackbone(), 2)) is PlainCam


# refines without DSCNet: own maps, those that can be compared; has rounds, saliency, criterion
DECLARED = {
    "cam": (False, False, False, False, "class_otsu"),
    "seam": (True, True, False, False, "agreement"),
    "auxsegnet": (True, False, True, True, "class_otsu"),
}


@pytest.mark.parametrize("name", DECLARED)
def test_settings_read_what_is_declared(name):
    config = with_settings(name, method__variant="baseline")
    declared = config.baseline
    assert declared.name == name
    read = (declared.refines_cam, config.refines_cam, config.has_rounds, config.needs_saliency)
    assert (*read, config.criterion) == DECLARED[name]
    assert config.own_branch == config.has_rounds
    assert config.supervision == ("tags + saliency" if name == "auxsegnet" else "tags")
    assert with_settings(name, label__cams="elsewhere").criterion == "class_otsu"
    assert with_settings(name, label__bg_score="tags").criterion == "tags"


@pytest.mark.parametrize(
    ("variant", "refined"), [("M1", True), ("M2", False), ("M3", True), ("M4", True)]
)
@pytest.mark.parametrize("name", DECLARED)
def test_dscnet_refines_any_of_them(name, variant, refined):
    config = with_settings(name, method__variant=variant)
    assert config.refines_cam == (refined or name == "seam")
    compared = config.refines_cam and name != "auxsegnet"
    assert config.criterion == ("agreement" if compared else "class_otsu")


def test_saliency_of_auxsegnet_can_be_made_of_its_maps():
    assert not with_settings("auxsegnet", auxseg__saliency="from_cam").needs_saliency
    assert with_settings("auxsegnet", auxseg__keep_labels=True).keeps_labels
    assert not with_settings("seam", auxseg__keep_labels=True).keeps_labels


def test_options_are_those_that_a_network_has_beyond_the_plain_ones():
    assert find_baseline("cam").options(Config()) == {}
    assert find_baseline("seam").options(Config()) == {"view_scale": 0.5}
    options = find_baseline("auxsegnet").options(with_settings("auxsegnet", auxseg__rows=7))
    model = create_model("auxsegnet", TinyBackbone(), 2, **options)
    assert model.cross_task.rows == 7
    # Stride 4: twice the published dilations.
    assert [model.segmentation.before[index].dilation[0] for index in (0, 2)] == [12, 24]


@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_baseline_names_its_criterion(criterion):
    register_baseline(Baseline("other", PlainCam, refines_cam=True, criterion=criterion))
    assert criterion in thresholds.CRITERIA
    config = with_settings("other", method__variant="baseline")
    assert config.criterion == criterion
    assert replace_settings(config, {"label.cams": "elsewhere"}).criterion == "class_otsu"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"criterion": "scales"}, "criterion must be one of agreement, .*'scales'"),
        ({"network": "package.module"}, "network must be 'package.module:Class', got"),
        ({"network": ":Class"}, "network must be"),
    ],
)
def test_wrong_declarations_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Baseline(**({"name": "other", "network": PlainCam} | wrong))


def test_a_taken_name_is_refused():
    with pytest.raises(ValueError, match="must be new, got 'seam'; registered: auxsegnet, cam"):
        register_baseline(Baseline("seam", PlainCam))
    assert find_baseline("seam").factory() is Seam


def test_an_unknown_name_asks_the_plugins_and_then_names_those_there_are(monkeypatch):
    asked = []
    monkeypatch.setattr(baselines, "load_plugins", lambda: asked.append(True))
    assert find_baseline("seam").name == "seam" and not asked
    with pytest.raises(ValueError, match=f"one of auxsegnet, cam, seam, got 'sean' .*{VARIABLE}"):
        _ = with_settings("sean").has_rounds
    assert asked


def test_a_plugin_that_cannot_be_imported_is_named(monkeypatch):
    monkeypatch.setenv(VARIABLE, "no_such_plugin")
    load_plugins.cache_clear()
    with pytest.raises(ValueError, match="plugin 'no_such_plugin' cannot be imported"):
        find_baseline("toy")


def test_declarations_do_not_import_the_networks():
    code = (
        "import sys; from dscnet.config import Config; c = Config();"
        "print(c.has_rounds, c.criterion, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "agreement", "False"]


# Names compared with names: whether a table's recipe is of the row that it stands for.
ALLOWED = {"tables/runs.py": ["config.model.name != base"]}


def name_comparisons(source: str) -> list[str]:
    """Comparisons and matches of a setting ``model.name``, read or written either way."""
    endings = ("model.name", "['model']['name']", "['model.name']")
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
        elif isinstance(node, ast.Match):
            parts = [node.subject]
        else:
            continue
        if any(ast.unparse(part).endswith(endings) for part in parts):
            found.append(ast.unparse(node))
    return found


def test_no_module_asks_a_network_for_its_name():
    found = {
        path.relative_to(PACKAGE).as_posix(): name_comparisons(path.read_text(encoding="utf-8"))
        for path in PACKAGE.rglob("*.py")
    }
    assert {module: lines for module, lines in found.items() if lines} == ALLOWED


@pytest.mark.parametrize(
    "line",
    [
        "config.model.name == 'seam'",
        "'seam' != self.model.name",
        "model.name in ('seam', 'cam')",
        "settings['model']['name'] == 'seam'",
        "match config.model.name:\n    case 'seam': pass",
    ],
)
def test_a_question_for_the_name_is_found(line):
    assert len(name_comparisons(line)) == 1


@pytest.mark.parametrize("value", [3, None, [], {"toy": 3}, {"toy": None}])
def test_settings_of_plugins_have_names(value):
    with pytest.raises(ValueError, match=r"setting 'extensions.*' needs 'NAME: VALUE' pairs, got"):
        from_dict(Config, {"extensions": value})


@pytest.mark.parametrize("value", [{"a.b": {}}, {"toy": {"a.b": 1}}, {"toy": {"a": {1: 2}}}])
def test_names_that_dotted_settings_cannot_express_are_refused(value):
    with pytest.raises(ValueError, match="names must be text without dots"):
        from_dict(Config, {"extensions": value})
