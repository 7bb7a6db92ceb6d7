"""Tests of ``dscnet.pipeline.stage_trials``."""

from __future__ import annotations

import pytest
import torch

from dscnet.pipeline.job import Job
from dscnet.pipeline.stage_trials import try_stages
from test_resources import made_job


@pytest.fixture
def job(tmp_path) -> Job:
    """Small networks on four photos."""
    return made_job(tmp_path)


def test_each_stage_is_tried(job):
    state = torch.get_rng_state()
    stages = try_stages(job, [(24, 24)])
    assert [stage.stage for stage in stages] == [
        "train",
        "cam",
        "refine",
        "segment",
        "predict",
    ]
    assert all(stage.seconds > 0 for stage in stages)
    assert torch.equal(torch.get_rng_state(), state), "a run draws what it would have drawn"
    assert not job.folder.root.exists()


def test_photos_at_their_own_size_need_what_their_pixels_do(job, monkeypatch):
    """Four times the pixels need four times as much, tried smaller or not."""
    monkeypatch.setattr("dscnet.pipeline.stage_trials.TRIED_PIXELS", 100_000)
    job.config.scale.relative_to = "photo"
    job.config.cam.batch_size = 1
    needed = []
    for size in ((2000, 3000), (4000, 6000)):
        needed.append({stage.stage: stage.memory for stage in try_stages(job, [size])})
    for name in ("cam", "refine", "predict"):
        assert 2 * needed[0][name] < needed[1][name] < 8 * needed[0][name]
