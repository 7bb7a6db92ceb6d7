"""Many runs: sweeps over variants and seeds, and their comparison."""

from __future__ import annotations

from dscnet.deprecation import moved_names

IN_GRID = ("VARIANTS", "of_seed", "read_variants", "run_all", "run_grid", "sweep", "write_results")
"""Names that were in this module when it was a file."""

__getattr__ = moved_names(__name__, {name: f"experiments.grid.{name}" for name in IN_GRID})
