"""Stages, refinement steps, CAM baselines and input formats from other packages.

A package names a module in the entry-point group ``dscnet.plugins``; importing it registers what it
adds. Modules named in the environment variable ``DSCNET_PLUGINS``, separated by commas, are
imported as well, which suits code that is not installed. Run folders never name code.
"""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module, metadata

GROUP = "dscnet.plugins"
VARIABLE = "DSCNET_PLUGINS"


@cache
def load_plugins() -> None:
    """Import the plugins, once per process.

    Raises:
        ValueError: If one cannot be imported; the message names it.
    """
    installed = {entry.value for entry in metadata.entry_points(group=GROUP)}
    named = {name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()}
    for module in sorted(installed | named):
        try:
            import_module(module)
        except Exception as error:
            raise ValueError(
                f"plugin '{module}' cannot be imported ({type(error).__name__}: {error}); fix or"
                f" uninstall it, or remove it from {VARIABLE}"
            ) from error
