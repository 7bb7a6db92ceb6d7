"""Tests of ``dscnet.pipeline.dependencies``."""

from __future__ import annotations

from dataclasses import asdict

from dscnet.config import Config, LabelConfig
from dscnet.pipeline.dependencies import refine_needs, refine_settings


def test_only_the_refinement_steps_asked_for_count():
    config = Config(label=LabelConfig(cams="cams"))
    config.affinity.start = config.irn.start = "weights"
    assert refine_settings(config) is None
    config.refine.steps = ["pamr"]
    plain = [asdict(config.refine), config.label.bg_score, config.label.cams, None]
    assert refine_settings(config) == plain
    assert refine_needs(config) == ()
    config.refine.steps = ["affinity"]
    before = refine_settings(config)
    config.irn.beta = 3.0
    assert refine_settings(config) == before
    config.affinity.beta = 3.0
    assert refine_settings(config) != before
    assert refine_needs(config) == ()
    config.affinity.start = "cam"
    assert refine_needs(config) == ("train",)
