"""Renamed public names: the old one still works and warns."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any


def renamed_names(
    module: str, names: Mapping[str, str], values: Mapping[str, Any]
) -> Callable[[str], Any]:
    """Make a module ``__getattr__`` that serves renamed names.

    Args:
        module: The module's name, for messages.
        names: Old name -> new name.
        values: The module's ``globals()``.

    Returns:
        A function from an attribute's name to its value.
    """

    def lookup(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warn_renamed(f"{module}.{name}", names[name])
        return values[names[name]]

    return lookup


class RenamedAttribute:
    """Class attribute that serves another attribute of the instance under its old name.

    Args:
        new: Name of the attribute to use instead.
    """

    def __init__(self, new: str) -> None:
        self.new = new

    def __set_name__(self, owner: type, name: str) -> None:
        self.old = f"{owner.__name__}.{name}"

    def __get__(self, instance: object, owner: type) -> Any:
        if instance is None:
            return self
        warn_renamed(self.old, self.new)
        return getattr(instance, self.new)


def warn_renamed(old: str, new: str, *, stacklevel: int = 3) -> None:
    """Warn that ``old`` is now called ``new``; ``stacklevel`` as in :func:`warnings.warn`."""
    warnings.warn(f"{old} is deprecated, use {new}", DeprecationWarning, stacklevel=stacklevel)
