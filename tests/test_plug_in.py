"""The example is run as its reader would run it, and is as short as the README says."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

EXAMPLE = Path(__file__).parent.parent / "examples" / "plug_in.py"


def load():
    spec = importlib.util.spec_from_file_location("plug_in", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example_trains():
    # Long enough to fall below the first step with contrasts, a quarter in: no memory yet.
    losses = load().main(steps=32)
    assert len(losses) == 32
    assert all(math.isfinite(value) for value in losses)
    assert max(losses[:8]) < losses[8]
    assert max(losses[-4:]) < losses[8]


def test_plugging_in_takes_less_than_twenty_lines():
    text = EXAMPLE.read_text()
    between = text.split("DSCNet begins")[1].split("# --8<-- DSCNet ends")[0]
    assert 0 < len([line for line in between.splitlines() if line.strip()]) < 20
