"""Settings from files and the command line, and back; standard library only."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import PurePath
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from dscnet.config import Config
from dscnet.config.legacy import REMOVED, RENAMED, RENAMED_VALUES

log = logging.getLogger("dscnet")

T = TypeVar("T")

_noted: set[str] = set()


def to_dict(config: Any) -> dict[str, Any]:
    """Plain nested dictionaries, lists and scalars of a config: what ``config.yaml`` holds."""
    return asdict(config)


def without_local_paths(config: Config) -> dict[str, Any]:
    """The settings for publication with results: local paths reduced to their last part."""
    settings = {name: _shorten_paths(value) for name, value in to_dict(config).items()}
    return settings | {"data": path_name(config.data)}


def path_name(path: str) -> str:
    """The last part of a path; if a part contains ``{seed}``, everything from there on.

    Example:
        >>> path_name("/home/me/runs/plain/baseline-s{seed}/cams")
        'baseline-s{seed}/cams'
    """
    parts = PurePath(path).parts
    seeded = [index for index, part in enumerate(parts) if "{seed}" in part]
    return "/".join(parts[seeded[0] if seeded else -1 :])


def _shorten_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _shorten_paths(each) for name, each in value.items()}
    is_place = isinstance(value, str) and PurePath(value).is_absolute()
    return path_name(value) if is_place else value


def from_dict(cls: type[T], values: Mapping[str, Any]) -> T:
    """Build a (nested) config from plain dictionaries, of this version or an earlier one.

    Raises:
        ValueError: If a key is unknown (the message suggests the nearest setting), a value is not
            of the expected type, or a former setting has another value than is used now.
    """
    if cls is Config:
        values = current_settings(values)
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
    """Floats where floats are expected: YAML reads ``10`` as an integer and ``2e-4`` as text.

    Values need a canonical form, as they are part of the fingerprints of finished stages.
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
        what = "a list of numbers" if list[float] in kinds else "a number"
        choice = f" or one of {', '.join(words)}" if words else ""
        raise ValueError(f"setting '{key}' must be {what}{choice}, got {value!r}") from None
    return value


def _check_extensions(name: str, value: Any, *, depth: int = 0) -> None:
    """Refuse settings of plugins that dotted names such as ``extensions.toy.gain`` cannot express.

    Args:
        name: Dotted name of the value, for messages.
        value: The value; mappings inside it are checked too.
        depth: Number of levels that must be mappings, including this one.

    Raises:
        ValueError: If one of them is not, or a key is not text without dots.
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
    """Error message for an unknown setting, with the nearest known one."""
    from difflib import get_close_matches

    nearest = get_close_matches(key, names, n=1, cutoff=0.5)
    hint = f"did you mean '{nearest[0]}'?" if nearest else f"the settings are: {', '.join(names)}"
    return f"unknown setting '{key}': {hint}"


def current_settings(
    values: Mapping[str, Any], source: str = "", *, finished: bool = False
) -> dict[str, Any]:
    """Nested settings of this version from those of any version.

    Renamed settings get their new names, and former settings are dropped; both are logged once.

    Args:
        values: Nested settings; not changed.
        source: Where they come from, for messages, e.g. the path of a file.
        finished: They describe a finished run. A former setting then may have another value than
            is used now, which is noted.

    Raises:
        ValueError: If a setting has its old and its new name, or a former one has another value
            than is used now and ``finished`` is false.
    """
    sections = {
        key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()
    }
    old = {
        f"{key}.{name}": value
        for key, section in sections.items()
        if isinstance(section, dict)
        for name, value in section.items()
    }
    for name, value in _current(old, source, finished).items():
        section, _, key = name.partition(".")
        sections[section][key] = value
    for name in old.keys() & (RENAMED.keys() | REMOVED.keys()):
        section, _, key = name.partition(".")
        del sections[section][key]
    return sections


def current_dotted(settings: Mapping[str, Any], source: str = "") -> dict[str, Any]:
    """The same for dotted settings, e.g. ``{"method.variant": "M1"}``."""
    kept = {
        key: value for key, value in settings.items() if key not in RENAMED and key not in REMOVED
    }
    return kept | _current(settings, source, finished=False)


def _current(old: Mapping[str, Any], source: str, finished: bool) -> dict[str, Any]:
    """What replaces the dotted settings of earlier versions: new name -> value."""
    prefix = f"{source}: " if source else ""
    renamed = {name: new for name, new in RENAMED.items() if name in old}
    if twice := [f"{name} and {new}" for name, new in renamed.items() if new in old]:
        raise ValueError(f"{prefix}{', '.join(twice)} are the same setting: keep the latter")
    removed = {name: old[name] for name in REMOVED if name in old}
    other = other_values(removed)
    if other and not finished:
        raise ValueError(
            prefix + "; ".join(f"{removed_setting(name)}, got {other[name]!r}" for name in other)
        )
    if renamed:
        pairs = ", ".join(f"{before} is now {now}" for before, now in renamed.items())
        note(f"{prefix}renamed: {pairs}")
    if same := [name for name in removed if name not in other]:
        note(f"{prefix}no longer settings, and fixed at the values given there: {', '.join(same)}")
    if other:
        fixed = (f"{name}: {value!r}, now {REMOVED[name].value!r}" for name, value in other.items())
        note(f"{prefix}no longer settings, and fixed at OTHER values: {', '.join(fixed)}")
    named = [(new, old[name]) for name, new in renamed.items()]
    named += [(name, old[name]) for name in RENAMED_VALUES if name in old]
    return {name: current_value(name, value) for name, value in named}


def current_arguments(words: Sequence[str]) -> list[str]:
    """Arguments of the command line, with renamed settings under their new names.

    Former settings at the values used now are dropped with a note, as in a file; other values are
    left for the parser to refuse.
    """
    words = _without_former(words)
    current = list(words)
    for place, word in enumerate(words):
        old, equals, value = word.removeprefix("--").partition("=")
        name = RENAMED.get(old, old)
        if not word.startswith("--") or (name == old and name not in RENAMED_VALUES):
            continue
        if name != old:
            note(f"--{old} is deprecated: use --{name}")
        current[place] = f"--{name}={current_value(name, value)}" if equals else f"--{name}"
        if not equals and place + 1 < len(words):
            current[place + 1] = current_value(name, words[place + 1])
    return current


def _without_former(words: Sequence[str]) -> list[str]:
    kept, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if not equals:
            value = rest[0] if rest else ""
        if word.startswith("--") and name in REMOVED and _is_fixed(name, _typed(value)):
            note(f"no longer a setting, and fixed at the value given: {name}")
            del rest[: 0 if equals else 1]
        else:
            kept.append(word)
    return kept


def _typed(word: str) -> Any:
    """A value of the command line; text if it is no number, truth value or null."""
    try:
        return json.loads(word)
    except ValueError:
        return word


def current_value(name: str, value: Any) -> Any:
    """The current name of a setting's value, e.g. ``cam`` for ``maps``."""
    values = RENAMED_VALUES.get(name, {})
    return values.get(value, value) if isinstance(value, str) else value


def other_values(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Former settings whose values differ from those used now."""
    return {
        name: settings[name]
        for name in REMOVED
        if name in settings and not _is_fixed(name, settings[name])
    }


def _is_fixed(name: str, value: Any) -> bool:
    fixed = REMOVED[name].value
    try:
        return bool(value == fixed or (type(fixed) is float and float(value) == fixed))
    except (TypeError, ValueError):
        return False


def removed_setting(name: str) -> str:
    """Error message for a former setting."""
    fixed, why, since = REMOVED[name]
    return f"{name} is no longer a setting since version {since} (fixed at {fixed!r}: {why})"


def note(text: str) -> None:
    """Log a warning, once per process."""
    if text not in _noted:
        _noted.add(text)
        log.warning("%s", text)


def replace_settings(config: Config, settings: Mapping[str, Any]) -> Config:
    """A copy of ``config`` with dotted settings replaced, e.g. ``{"method.variant": "M1"}``."""
    values = to_dict(config)
    for dotted, value in current_dotted(settings).items():
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
