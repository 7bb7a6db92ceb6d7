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
        """Those of the classes that ``auxseg.stuff`` names, 0-based, foreground only."""
        names = self.config.auxseg.stuff
        return [index for index, name in enumerate(self.train.classes) if name in names]
