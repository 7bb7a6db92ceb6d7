"""Shared set-up: polite threads, no network, markers that skip with a reason, seeded generators."""

from __future__ import annotations

import functools
import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# Before torch and the hub client are imported: both read these once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest

if TYPE_CHECKING:
    import torch

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED_DATA = REPOSITORY.parent / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip ``data`` and ``gpu`` tests where their photos or their device are absent."""
    skips = {}
    if not SHARED_DATA.is_dir():
        skips["data"] = pytest.mark.skip(reason="the photos of ../shared/data are not here")
    if any("gpu" in item.keywords for item in items) and not _has_cuda():
        skips["gpu"] = pytest.mark.skip(reason="no CUDA device")
    for item in items:
        for marker, skip in skips.items():
            if item.get_closest_marker(marker):
                item.add_marker(skip)


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture(scope="session", autouse=True)
def parser_made_once() -> Iterator[None]:
    """Calls of ``main`` share one parser, which takes half a second to make."""
    from dscnet import cli
    from dscnet.command import arguments

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "build_parser", functools.cache(arguments.build_parser))
        yield


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 8 photos to train on and 3 to measure on; shared, not to be changed."""
    from dscnet.data.scenes import write_scenes

    root = tmp_path_factory.mktemp("shared") / "scenes"
    write_scenes(root, num_train=8, num_val=3, size=64, seed=0)
    return root


@pytest.fixture
def untried(monkeypatch: pytest.MonkeyPatch) -> None:
    """`dscnet check` says nothing of what a run needs, which takes seconds to try."""
    monkeypatch.setattr("dscnet.pipeline.resources.needs_of", lambda job: "untried")


@pytest.fixture
def generator() -> torch.Generator:
    """A freshly seeded generator."""
    import torch

    return torch.Generator().manual_seed(0)


@pytest.fixture
def shared_data() -> Path:
    """Folder of the real photos; for tests marked ``data``."""
    return SHARED_DATA


class Alive:
    """Counts how many of the arrays it has watched are held at once, at most."""

    def __init__(self) -> None:
        self.references: list[weakref.ref[object]] = []
        self.most = 0

    def watch(self, array: object) -> object:
        """Count an array from now on until nothing holds it any more."""
        self.references.append(weakref.ref(array))
        self.most = max(self.most, sum(reference() is not None for reference in self.references))
        return array


@pytest.fixture
def alive() -> Alive:
    """Watches which arrays are held."""
    return Alive()
