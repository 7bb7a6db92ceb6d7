"""The twin that training steps are timed against gives the losses of our network."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from dscnet.config import Config
from dscnet.config.settings import replace_settings
from dscnet.tables.step_time import random_batch
from helpers import SMALL_NETWORK

ROOT = Path(__file__).parent.parent
CLASSES = 5


@pytest.fixture
def naive_twin(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("naive_twin")


def settings(variant: str, **changes: object) -> Config:
    small = {
        "augment.crop_size": 64,
        "train.batch_size": 3,
        "train.accelerator": "cpu",
        "method.variant": variant,
    }
    return replace_settings(Config(), SMALL_NETWORK | small | changes)


def sides(naive_twin, variant: str, network: dict[str, object] | None = None):
    config = settings(variant, **(network or {}))
    batch = random_batch(config, CLASSES)
    # Double precision: k-means must not decide otherwise by rounding.
    batch.image, batch.tags = batch.image.double(), batch.tags.double()
    return naive_twin.both_sides(config, CLASSES, batch)


@pytest.mark.parametrize("variant", ["baseline", "M1", "M4"])
def test_twin_has_the_same_losses(naive_twin, variant):
    steps = sides(naive_twin, variant)
    # The second step reads the memory of the first.
    for _ in range(2):
        found = naive_twin.difference(steps)
        assert {"cls", "min", "er", "ecr", "total"} <= set(found)
        assert ("pgcl" in found, "sgcl" in found) == (variant != "baseline", variant == "M4")
        assert max(row["relative"] for row in found.values()) < 1e-4
