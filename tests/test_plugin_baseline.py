"""The documented baseline is run as its reader would: a file outside the package, and the CLI."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d

from dscnet.build import build_model
from dscnet.cli import main
from dscnet.config import Config, baselines
from dscnet.config.settings import replace_settings
from dscnet.data.scenes import write_scenes
from dscnet.plugins import VARIABLE, load_plugins
from dscnet.run_folder import RunFolder

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
SECTION = PAGE.read_text(encoding="utf-8").split("## A CAM baseline\n")[1].split("\n## ")[0]
CODE = re.search(r"```python\n(.*?)```", SECTION, re.S)[1]
COMMAND = re.search(r"^dscnet (run .*)$", SECTION, re.M)[1]

SMALL = {
    "scale.side": "64",
    "augment.crop_size": "64",
    "augment.long_side": "[64, 96]",
    "cam.scales": "[1.0]",
    "cam.flip": "false",
    "train.iterations": "2",
    "segment.iterations": "2",
    "segment.decoder_channels": "16",
    "segment.test_scales": "[1.0]",
    "segment.flip_test": "false",
    "segment.crf": "false",
    **{f"{name}.batch_size": "4" for name in ("train", "segment")},
    **{f"{name}.accelerator": "cpu" for name in ("train", "segment")},
}


def words(settings: dict[str, str]) -> list[str]:
    return [word for name, value in settings.items() for word in (f"--{name}", value)]


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """The documented module, named in the environment and not imported yet."""
    monkeypatch.setattr(baselines, "_BASELINES", dict(baselines._BASELINES))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(VARIABLE, "toy_baseline")
    load_plugins.cache_clear()
    (tmp_path / "toy_baseline.py").write_text(CODE, encoding="utf-8")
    yield
    sys.modules.pop("toy_baseline", None)
    load_plugins.cache_clear()


@pytest.fixture
def scenes(tmp_path) -> Path:
    write_scenes(tmp_path / "scenes", num_train=8, num_val=2, size=64, seed=0)
    return tmp_path / "scenes"


def as_documented(scenes: Path, out: Path, **further: str) -> list[str]:
    """The words of the documented command, with places and sizes of a test."""
    typed = shlex.split(COMMAND)
    typed[typed.index("--data") + 1], typed[typed.index("--out") + 1] = str(scenes), str(out)
    return [*typed, *words(SMALL | further)]


def test_a_documented_baseline_runs_to_the_end_with_dscl(plugin, scenes, tmp_path):
    out = tmp_path / "run"
    settings = {
        "method.variant": "M4",
        "label.bg_score": "0.3",
    }  # too little training for a criterion
    assert main(as_documented(scenes, out, **settings)) == 0
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert all(0 <= metrics[name]["miou"] <= 1 for name in ("cam", "pseudo_label", "segmenter"))
    assert len(list((out / "cams").glob("*.npz"))) == len(list((out / "labels").glob("*.png"))) == 8
    for file in (out / "cams").glob("*.npz"):
        with np.load(file) as maps:
            assert maps["refined"].shape == maps["cam"].shape
    check_network(RunFolder(out).read_config())
    photos = [str(path) for path in sorted((scenes / "JPEGImages").iterdir())[:2]]
    assert main(["predict", *photos, "--model", str(out), "--out", str(tmp_path / "new")]) == 0
    assert len(list((tmp_path / "new" / "masks").glob("*.png"))) == 2


def check_network(config: Config) -> None:
    """Without DSCNet the network's own ``refine`` is what makes ``refined`` maps."""
    assert (config.model.name, config.extensions) == ("toy", {"toy": {"window": 5}})
    plain = replace_settings(config, {"method.variant": "baseline", "label.bg_score": "auto"})
    assert plain.refines_cam and plain.criterion == "agreement"
    network = build_model(plain, 6, pretrained=False).eval()
    assert network.window == 5 and network.context is None
    maps = network.score_maps(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    peaks = maps["cam"].amax((2, 3), keepdim=True).clamp(min=1e-5)
    size = dict(kernel_size=5, stride=1, padding=2, count_include_pad=False)
    torch.testing.assert_close(maps["refined"], avg_pool2d(maps["cam"] / peaks, **size))
    assert maps["refined"].max() > 0


def test_its_own_checks_of_its_settings_come_before_training(plugin, scenes, tmp_path, capsys):
    typed = as_documented(scenes, tmp_path / "run", extensions="{toy: {window: 4}}")
    assert main(typed) == 1
    assert "extensions.toy.window must be odd and positive, got 4" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_without_the_plugin_its_name_is_refused_with_those_known(scenes, tmp_path, capsys):
    assert main(as_documented(scenes, tmp_path / "run")) == 1
    error = capsys.readouterr().err
    assert "must be one of auxsegnet, cam, seam, got 'toy'" in error
    assert VARIABLE in error
