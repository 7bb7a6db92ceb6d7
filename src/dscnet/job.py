"""What every stage gets."""

from __future__ import annotations

from dataclasses import dataclass

from dscnet.config import Config
from dscnet.data import PhotoSet
from dscnet.run_folder import RunFolder


@dataclass
class Job:
    """Settings, folder and photos of a run; ``val`` is None without validation photos."""

    config: Config
    folder: RunFolder
    train: PhotoSet
    val: PhotoSet | None
    progress: bool = True

    @property
    def stuff(self) -> list[int]:
        """The classes that ``auxseg.stuff`` names, 0-based, foreground only."""
        return [self.train.classes.index(name) for name in self.config.auxseg.stuff]
