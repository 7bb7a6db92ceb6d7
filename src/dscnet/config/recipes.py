"""Settings files, and recipes: packaged settings with known results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from dscnet.config import Config
from dscnet.config.settings import current_settings, from_dict
from dscnet.files.similar_names import did_you_mean, similar_path

_PACKAGE = Path(__file__).parents[1]
FOLDERS = (_PACKAGE / "recipes", _PACKAGE.parent.parent / "recipes")
"""Where recipes are in an installed package and in a checkout."""


def list_recipes() -> dict[str, Path]:
    """Recipe name -> file, sorted by name."""
    files = [file for folder in FOLDERS if folder.is_dir() for file in folder.glob("*.yaml")]
    return {file.stem: file for file in sorted(files, key=lambda file: file.stem)}


def find_recipe(name: str) -> Path:
    """Path of a settings file, given by its path or as the name of a recipe.

    Raises:
        ValueError: If it is neither; the message lists the recipes.
    """
    path = Path(name)
    if path.is_file():
        return path
    recipes = list_recipes()
    if path.stem in recipes:
        return recipes[path.stem]
    hint = did_you_mean(name, recipes) or similar_path(path)
    raise ValueError(f"{name} is neither a file nor a recipe{hint}; recipes: {', '.join(recipes)}")


def read_config(path: Path, *, finished: bool = False) -> Config:
    """Read a settings file; missing settings have their defaults.

    Args:
        path: The file, written by this version or an earlier one.
        finished: It belongs to a finished run, so former settings may have any value.

    Raises:
        ValueError: If it is not a settings file or has an unknown setting; with the file.
    """
    values = current_settings(read_mapping(path), str(path), finished=finished)
    try:
        return from_dict(Config, values)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: {error}") from error


def as_current(path: Path, *, finished: bool = False, of_run: bool = False) -> str:
    """A settings file for the parser of the command line.

    Args:
        path: The file, written by this version or an earlier one.
        finished: As for :func:`read_config`, which also lists the errors.
        of_run: It is the ``config.yaml`` of a run. Before the section ``scale`` existed, networks
            used the photo's own size.

    Returns:
        Its path; the YAML text of this version's settings if the file holds others.
    """
    values = read_mapping(path)
    current = current_settings(values, str(path), finished=finished)
    if of_run:
        current.setdefault("scale", {"relative_to": "photo"})
    return str(path) if current == values else yaml.safe_dump(current, sort_keys=False)


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file of settings or variants.

    Raises:
        ValueError: If it is not a mapping; with the file.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: not valid YAML ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a mapping, 'name: value' lines")
    return content


def summary(path: Path) -> str:
    """Purpose of a recipe: its first comment line."""
    first = path.read_text(encoding="utf-8").splitlines()[0] if path.stat().st_size else ""
    return first.lstrip("# ").strip()
