from __future__ import annotations

import subprocess
import sys

import pytest

from dscnet.config import Config, MethodConfig
from dscnet.config.settings import (
    dotted_settings,
    from_dict,
    replace_settings,
    to_dict,
    without_local_paths,
)


def test_round_trip_is_exact():
    config = Config(data="photos", seed=3, method=MethodConfig(variant="M1", num_groups=4))
    assert from_dict(Config, to_dict(config)) == config


def test_unknown_setting_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'temperature'"):
        from_dict(Config, {"method": {"temprature": 1}})


def test_replace_settings_leaves_the_original_alone():
    config = Config()
    other = replace_settings(config, {"train.lr": 0.5, "seed": 7})
    assert (other.train.lr, other.seed) == (0.5, 7)
    assert config == Config()


def test_replace_settings_refuses_what_does_not_exist():
    with pytest.raises(ValueError, match=r"did you mean 'train.lr'"):
        replace_settings(Config(), {"train.lrr": 1})


def test_reading_settings_does_not_import_torch():
    code = "import sys, dscnet.config, dscnet.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_number_has_one_form_whatever_yaml_made_of_it():
    made = from_dict(Config, {"train": {"lr": "2e-4", "clip": 10}, "cam": {"scales": [1, 1.5]}})
    assert repr((made.train.lr, made.train.clip, made.cam.scales)) == "(0.0002, 10.0, [1.0, 1.5])"


@pytest.mark.parametrize("wrong", [{"lr": "fast"}, {"lr": [1]}])
def test_what_is_no_number_is_refused_by_name(wrong):
    with pytest.raises(ValueError, match="'lr' must be a number, got"):
        from_dict(Config, {"train": wrong})


@pytest.mark.parametrize("score", ["tags", "auto", 0.4, "0.4"])
def test_the_background_score_is_a_number_or_a_criterion(score):
    made = from_dict(Config, {"label": {"bg_score": score}}).label.bg_score
    assert made == (score if score in ("tags", "auto") else 0.4)


def test_an_unknown_criterion_is_refused_with_those_there_are():
    with pytest.raises(
        ValueError, match=r"'bg_score' must be a number or one of auto, otsu.*magic"
    ):
        from_dict(Config, {"label": {"bg_score": "magic"}})


def test_settings_of_earlier_versions_are_read_as_they_were_meant():
    values = to_dict(Config())
    for name in ("backbone", "weights", "output_stride", "crop_size", "jitter", "scale_range"):
        assert values["segment"].pop(name) is None
    assert values["segment"].pop("iterations") is values["train"].pop("iterations") is None
    assert from_dict(Config, values) == Config()


def test_dotted_settings_are_the_way_back_to_a_config():
    config = Config(data="x")
    config.refine.steps, config.method.variant = ["crf"], "M1"
    values = dotted_settings(to_dict(config))
    assert values["refine.steps"] == ["crf"]
    assert replace_settings(Config(), values) == config


def test_local_paths_are_not_published():
    config = replace_settings(
        Config(data="/home/me/photos"),
        {
            "auxseg.cams": "/home/me/runs/base-s{seed}/cams",
            "segment.labels": "runs/labels",
            "label.cams": "/home/me/maps",
        },
    )
    values = without_local_paths(config)
    assert "/home" not in str(values)
    assert values["data"] == "photos"
    assert values["auxseg"]["cams"] == "base-s{seed}/cams"
    assert values["label"]["cams"] == "maps"
    assert values["segment"]["labels"] == "runs/labels"
    assert config.data == "/home/me/photos"
    assert without_local_paths(Config())["data"] == ""


def test_settings_of_plugins_are_kept_as_they_are():
    config = from_dict(Config, {"extensions": {"toy": {"gain": 2, "sizes": [1, 2], "on": None}}})
    values = to_dict(config)
    assert from_dict(Config, values) == config
    assert dotted_settings(values)["extensions.toy.gain"] == 2
    assert replace_settings(Config(), dotted_settings(values)) == config
    assert from_dict(Config, {name: v for name, v in values.items() if name != "extensions"}) == (
        Config()
    )


def test_settings_of_plugins_can_be_varied():
    config = replace_settings(Config(), {"extensions.toy.gain": 2})
    other = replace_settings(config, {"extensions.toy.gain": 3, "extensions.more.on": True})
    assert config.extensions == {"toy": {"gain": 2}}
    assert other.extensions == {"toy": {"gain": 3}, "more": {"on": True}}
    assert replace_settings(other, {"extensions": {}}) == Config()
