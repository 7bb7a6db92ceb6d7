"""Settings files, and the recipes that come with the package: settings whose results are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from dscnet.config import Config
from dscnet.config.settings import from_dict

_PACKAGE = Path(__file__).parents[1]
FOLDERS = (_PACKAGE / "recipes", _PACKAGE.parent.parent / "recipes")
"""Where recipes lie in an installed package and in a checkout."""


def list_recipes() -> dict[str, Path]:
    """Recipe name -> file, in order of the names."""
    files = [file for folder in FOLDERS if folder.is_dir() for file in folder.glob("*.yaml")]
    return {file.stem: file for file in sorted(files, key=lambda file: file.stem)}


def find_recipe(name: str) -> Path:
    """A settings file by its path, or a recipe by its name.

    Raises:
        ValueError: If there is neither; the message lists the recipes.
    """
    path = Path(name)
    if path.is_file():
        return path
    recipes = list_recipes()
    if path.stem in recipes:
        return recipes[path.stem]
    raise ValueError(f"{name} is neither a file nor a recipe; recipes: {', '.join(recipes)}")


def read_config(path: Path) -> Config:
    """Read a file of settings; those it does not name have their defaults.

    Raises:
        ValueError: If it holds none, or one that does not exist; the message names the file.
    """
    values = read_mapping(path)
    try:
        return from_dict(Config, values)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: {error}") from error


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file of settings or of variants.

    Raises:
        ValueError: If it is no mapping of names; the message names the file.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: not valid YAML ({error}); repair it") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected 'name: value' lines; it holds none")
    return content


def summary(path: Path) -> str:
    """First comment line of a recipe: what it is for."""
    first = path.read_text(encoding="utf-8").splitlines()[0] if path.stat().st_size else ""
    return first.lstrip("# ").strip()
