"""From files and words to settings and back; standard library only: the CLI runs without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import PurePath
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from dscnet.config import Config

T = TypeVar("T")


def to_dict(config: Any) -> dict[str, Any]:
    """Plain nested dictionaries, lists and scalars of a config: what ``config.yaml`` holds."""
    return asdict(config)


def shown(config: Config) -> dict[str, Any]:
    """The settings for readers elsewhere, whom places on this machine tell nothing."""
    settings = {name: _without_places(value) for name, value in to_dict(config).items()}
    return settings | {"data": path_name(config.data)}


def path_name(path: str) -> str:
    """The last part of a path; of one with ``{seed}`` in it, all from there on.

    Example:
        >>> path_name("/home/me/runs/plain/baseline-s{seed}/cams")
        'baseline-s{seed}/cams'
    """
    parts = PurePath(path).parts
    seeded = [index for index, part in enumerate(parts) if "{seed}" in part]
    return "/".join(parts[seeded[0] if seeded else -1 :])


def _without_places(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_places(each) for name, each in value.items()}
    is_place = isinstance(value, str) and PurePath(value).is_absolute()
    return path_name(value) if is_place else value


def from_dict(cls: type[T], values: Mapping[str, Any]) -> T:
    """Build a (nested) config from plain dictionaries.

    Raises:
        ValueError: If a key is no setting (the message names the nearest one), or a number is none.
    """
    hints = get_type_hints(cls)
    names = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    arguments = {}
    for key, value in values.items():
        if key not in names:
            raise ValueError(unknown_setting(key, names))
        if key == "extensions":
            _check_extensions(key, value, depth=2)
        nested = is_dataclass(hints[key]) and isinstance(value, Mapping)
        arguments[key] = (
            from_dict(hints[key], value) if nested else _numbers(key, hints[key], value)
        )
    return cls(**arguments)


def _numbers(key: str, hint: Any, value: Any) -> Any:
    """Floats where floats are due: YAML reads ``10`` as an integer and ``2e-4`` as text.

    One value must have one form, because fingerprints of finished stages are made of it.
    """
    kinds = get_args(hint) if get_origin(hint) in (UnionType, Union) else (hint,)
    words = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    if isinstance(value, str) and value in words:
        return value
    try:
        if value is not None and float in kinds:
            return float(value)
        if value is not None and list[float] in kinds:
            return [float(item) for item in value]
    except (TypeError, ValueError):
        choice = f" or one of {', '.join(words)}" if words else ""
        raise ValueError(f"setting '{key}' needs numbers{choice}, got {value!r}") from None
    return value


def _check_extensions(name: str, value: Any, *, depth: int = 0) -> None:
    """Refuse settings of plugins that dotted names such as ``extensions.toy.gain`` cannot express.

    Args:
        name: Dotted name of the value, for messages.
        value: What it is; every mapping in it is checked.
        depth: Levels that have to be mappings, this one included.

    Raises:
        ValueError: If one of these is none, or a key is not text without dots.
    """
    if not isinstance(value, Mapping):
        if depth > 0:
            raise ValueError(f"setting '{name}' needs 'NAME: VALUE' pairs, got {value!r}")
        return
    for key, inner in value.items():
        if not isinstance(key, str) or "." in key:
            raise ValueError(f"setting '{name}': names must be text without dots, got {key!r}")
        _check_extensions(f"{name}.{key}", inner, depth=depth - 1)


def unknown_setting(key: str, names: list[str]) -> str:
    """Error text for a setting that does not exist, with the nearest that does."""
    from difflib import get_close_matches

    nearest = get_close_matches(key, names, n=1, cutoff=0.5)
    hint = f"did you mean '{nearest[0]}'?" if nearest else f"the settings are: {', '.join(names)}"
    return f"unknown setting '{key}': {hint}"


def replace_settings(config: Config, settings: Mapping[str, Any]) -> Config:
    """A copy of ``config`` with dotted settings replaced, e.g. ``{"method.variant": "M1"}``."""
    values = to_dict(config)
    for dotted, value in settings.items():
        *path, last = dotted.split(".")
        section = values
        of_plugin = path[:1] == ["extensions"]  # its names are not known here
        for part in path:
            section = section.setdefault(part, {}) if of_plugin else section.get(part, {})
        if last not in section and not of_plugin:
            raise ValueError(unknown_setting(dotted, dotted_names(values)))
        section[last] = value
    return from_dict(Config, values)


def dotted_names(values: Mapping[str, Any]) -> list[str]:
    """Dotted names of every setting of nested dictionaries."""
    return list(dotted_settings(values))


def dotted_settings(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as dotted settings, e.g. ``{"method.variant": "M1"}``."""
    settings: dict[str, Any] = {}
    for key, value in values.items():
        deeper = dotted_settings(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {}
        settings |= deeper or {f"{prefix}{key}": value}
    return settings


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Dotted settings that differ, for messages: ``train.epochs: 1 there, 2 here``."""
    return [
        f"{name}: {there.get(name)} there, {value} here"
        for name, value in here.items()
        if there.get(name) != value
    ]
