"""README and docs: their tables are those of the result files, their lines and links hold."""

from __future__ import annotations

import ast
import importlib
import json
import re
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from dscnet.cli import VERBS
from dscnet.config import MethodConfig, ModelConfig

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
REFERENCE = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
JOURNAL = sorted((ROOT / "docs" / "journal").glob("*.md"))
LINKED = [*REFERENCE, *JOURNAL, *sorted((ROOT / "docs" / "decisions").glob("*.md"))]
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
GAIN = re.compile(r"[+-]\d+\.\d \[[^\]]+\]")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def script(name, monkeypatch):
    """A script of benchmarks/, imported as it is when it runs."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module(name)


def prose(path: Path) -> list[str]:
    """The lines that are no table."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith("|")]


def test_results_page_and_readme_table_are_those_of_the_result_files(monkeypatch):
    for path, text in script("results_page", monkeypatch).pages().items():
        assert path.read_text(encoding="utf-8") == text, "run python benchmarks/results_page.py"


@pytest.mark.parametrize("name", ["labels", "memory", "scale", "speed"])
def test_tables_of_other_pages_are_those_of_the_result_files(name, monkeypatch):
    module = script("scale" if name == "scale" else f"{name}_page", monkeypatch)
    assert (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") == module.page()


def test_results_page_is_short():
    assert len((ROOT / "docs" / "results.md").read_text(encoding="utf-8").splitlines()) < 400


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


@pytest.mark.parametrize("path", REFERENCE + JOURNAL, ids=name_of)
def test_lines_end_at_120_columns(path):
    assert [line for line in prose(path) if len(line) > 120] == []


def slugs(path: Path) -> set[str]:
    """Anchors of the headings, as GitHub forms them."""
    heads = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("path", LINKED, ids=name_of)
def test_links_lead_somewhere(path):
    for target, anchor in LINK.findall(path.read_text(encoding="utf-8")):
        place = (path.parent / target).resolve() if target else path
        assert place.exists(), f"{target} of {path.name}"
        assert not anchor or anchor in slugs(place), f"{target}#{anchor} of {path.name}"


def test_gains_quoted_in_the_text_are_on_the_results_page():
    known = set(GAIN.findall((ROOT / "docs" / "results.md").read_text(encoding="utf-8")))
    quoted = {gain for path in REFERENCE for gain in GAIN.findall("\n".join(prose(path)))}
    assert quoted
    assert quoted <= known


def python_blocks(path: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S)


def test_readme_snippet_runs_on_a_network_of_your_own():
    snippet = next(code for code in python_blocks(ROOT / "README.md") if "network(image)" in code)
    torch.manual_seed(0)
    middle, features = torch.randn(2, 3, 6, 6), torch.randn(2, 8, 6, 6)
    cam_logits = torch.randn(2, 3, 6, 6, requires_grad=True)
    names = {
        "channels": 8,
        "num_labels": 3,
        "network": lambda image: (middle, features, cam_logits),
        "image": None,
        "tags": torch.tensor([[1.0, 0.0], [1.0, 1.0]]),
        "step": 3,
        "steps": 4,
        "your_loss": F.multilabel_soft_margin_loss,
    }
    exec(snippet, names)
    names["loss"].backward()
    assert cam_logits.grad.abs().sum() > 0
    assert names["terms"].total > 0


@pytest.mark.parametrize("path", [ROOT / "README.md", ROOT / "docs" / "published.md"], ids=name_of)
def test_imports_of_python_blocks_resolve(path):
    body = [node for code in python_blocks(path) for node in ast.parse(code).body]
    imports = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert imports
    exec(compile(ast.Module(imports, []), str(path), "exec"), {})


def test_verbs_in_code_blocks_exist():
    named = set()
    for path in REFERENCE:
        for block in re.findall(r"^```\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S):
            named |= set(re.findall(r"^dscnet (\w+)", block, re.MULTILINE))
    assert {"check", "run", "predict"} <= named
    assert named <= {*VERBS, "tables"}


def test_tests_named_in_the_method_exist():
    text = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", text))
    modules = "\n".join(path.read_text(encoding="utf-8") for path in ROOT.glob("tests/test_*.py"))
    assert named
    assert [name for name in sorted(named) if f"def {name}(" not in modules] == []


def of_present_form(settings: dict, variant: str) -> bool:
    """Whether DSCNet's part of a run is what the defaults make of it (decisions 9 to 18)."""
    model, method, default = settings["model"], settings["method"], MethodConfig()
    relabelled = model["name"] != "auxsegnet" or settings["auxseg"]["relabel"] == "branch"
    # Result files keep the names that settings had when they were written.
    similarity = method.get("class_similarity", method.get("likeness"))
    started = model.get("classifier_gain") == ModelConfig().classifier_gain
    ramped = variant == "baseline" or method.get("pool_ramp") == default.pool_ramp
    contrasted = variant in ("baseline", "M2") or (
        similarity == default.class_similarity and method["pgcl_weight"] == default.pgcl_weight
    )
    return relabelled and started and ramped and contrasted


def test_results_are_of_the_present_form(monkeypatch):
    only = script("results_tables", monkeypatch).ONLY
    seen = 0
    for path in sorted(RESULTS.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if (
            not {"settings", "rows"} <= {*content}
            or content["settings"]["segment"]["supervision"] == "full"
        ):
            continue  # no sweep, or one without a CAM network
        for row in content["rows"]:
            if row["variant"] in only.get(path.stem, [row["variant"]]):
                assert of_present_form(content["settings"], row["variant"]), path.name
                seen += 1
    assert seen > 50
