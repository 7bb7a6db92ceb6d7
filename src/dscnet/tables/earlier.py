"""Reads finished runs from the JSON files of tables, without their run folders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dscnet.config import Config
from dscnet.config.baselines import find_baseline
from dscnet.config.settings import (
    current_settings,
    dotted_names,
    from_dict,
    replace_settings,
    to_dict,
)
from dscnet.tables.runs import WITHOUT_EFFECT, identity
from dscnet.types import DscnetError


def read_runs(paths: Sequence[str | Path]) -> dict[str, dict[str, Any]]:
    """Read the finished runs of tables' files, ``OUT/NAME.json``.

    Args:
        paths: Files; for a run in several files, the last one counts.

    Returns:
        :func:`~dscnet.tables.runs.identity` of a run -> its record in the file (``metrics``,
        ``seconds``, ``environment``), and ``source``, the name of the file.

    Raises:
        DscnetError: If a file is not that of a table, or its settings are from another version.
    """
    runs = {}
    for path in map(Path, paths):
        content = _read(path)
        for record in content["runs"]:
            if record["metrics"] is None:
                continue
            config = from_dict(Config, content["settings"][record["base"]])
            config = replace_settings(config, content["variants"][record["variant"]])
            runs[identity(config, record["seed"])] = {**record, "source": path.name}
    return runs


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DscnetError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise DscnetError(f"{path}: not JSON ({error})") from error
    if not isinstance(content, dict) or not {"settings", "variants", "runs"} <= content.keys():
        raise DscnetError(f"{path}: not the JSON file of a table")
    defaults = to_dict(Config())
    here = set(dotted_names(defaults))
    try:
        content["settings"] = {
            base: current_settings(settings, path.name)
            for base, settings in content["settings"].items()
        }
    except ValueError as error:
        raise DscnetError(str(error)) from error
    for settings in content["settings"].values():
        if not find_baseline(settings["model"]["name"]).has_rounds:
            # Runs of other networks do not use these.
            settings["auxseg"] = defaults["auxseg"]
        # A run without a setting that exists now may have differed from its default.
        names = set(dotted_names({**settings, "extensions": {}}))  # any plugin may add some
        if other := sorted(here.symmetric_difference(names).difference(WITHOUT_EFFECT)):
            raise DscnetError(
                f"{path}: made by another version of dscnet, whose settings differ in"
                f" {', '.join(other[:5])}: run these cells again"
            )
    return content
