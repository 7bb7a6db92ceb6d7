"""A run folder: where a run's files lie, what made them, and which stages need not run again."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from dscnet.config import Config
from dscnet.config.recipes import read_config, read_mapping
from dscnet.config.settings import dotted_settings, other_values, to_dict
from dscnet.files.atomic import read_json, whole_file
from dscnet.types import DscnetError

log = logging.getLogger("dscnet")

PACKAGE = Path(__file__).parent
_END = 4096  # bytes
_UNCOMPRESSED = (".bmp", ".tif", ".tiff", ".npy", ".npz")


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run, by the file contract of the README."""

    root: Path

    @property
    def config(self) -> Path:
        """Complete settings of the run."""
        return self.root / "config.yaml"

    @property
    def environment(self) -> Path:
        """Versions, git revision, device and seed."""
        return self.root / "environment.json"

    @property
    def stages(self) -> Path:
        """What each finished stage was made from."""
        return self.root / "stages.json"

    @property
    def losses(self) -> Path:
        """Losses of the CAM network, a row a step."""
        return self.root / "metrics.csv"

    @property
    def checkpoints(self) -> Path:
        """Resumable state and weights of the CAM network."""
        return self.root / "checkpoints"

    @property
    def weights(self) -> Path:
        """Weights of the CAM network."""
        return self.checkpoints / "weights.safetensors"

    @property
    def tag_scores(self) -> Path:
        """How well the CAM network tells the tags; written last of a training."""
        return self.checkpoints / "tags.json"

    @property
    def cams(self) -> Path:
        """Maps of the training photos."""
        return self.root / "cams"

    @property
    def refined(self) -> Path:
        """Label probabilities of the training photos after each refinement step."""
        return self.root / "refined"

    @property
    def unrefined(self) -> Path:
        """Labels of the training photos before refinement; of a round, those of its maps."""
        return self.refined / "before"

    @property
    def refinement(self) -> Path:
        """The refinement steps and the time each took."""
        return self.root / "refinement.json"

    @property
    def learned(self) -> Path:
        """What the refinement steps that train a network leave, a folder a step."""
        return self.root / "affinity"

    @property
    def labels(self) -> Path:
        """Pseudo labels of the training photos."""
        return self.root / "labels"

    @property
    def saliency(self) -> Path:
        """Saliency labels of the training photos, in the folder of a round."""
        return self.root / "saliency"

    def round(self, index: int) -> RunFolder:
        """Folder of one of AuxSegNet's rounds; 0 holds the labels that the first learns from."""
        return RunFolder(self.root / "rounds" / str(index))

    @property
    def threshold(self) -> Path:
        """The background score in use and those that the maps suggest."""
        return self.root / "threshold.json"

    @property
    def segmenter(self) -> Path:
        """Checkpoint, weights and losses of the segmentation network."""
        return self.root / "segmenter"

    def self_training(self, index: int) -> RunFolder:
        """Labels of a round of self-training; its network and masks if it is not the last."""
        return RunFolder(self.root / "self_training" / str(index))

    @property
    def segmenter_weights(self) -> Path:
        """Weights of the segmentation network."""
        return self.segmenter / "weights.safetensors"

    @property
    def model_card(self) -> Path:
        """Class names and normalisation of the CAM network."""
        return self.root / "model.json"

    @property
    def segmenter_card(self) -> Path:
        """Class names and normalisation of the segmentation network."""
        return self.segmenter / "model.json"

    @property
    def masks(self) -> Path:
        """Predicted masks of the validation photos."""
        return self.root / "masks"

    @property
    def metrics(self) -> Path:
        """What was measured."""
        return self.root / "metrics.json"

    @property
    def report(self) -> Path:
        """The page to look at."""
        return self.root / "report.html"

    def create(self, *, resume: bool = False, force: bool = False) -> None:
        """Make the folder ready; nothing in an existing one is touched unless the caller says so.

        Args:
            resume: Go on in an existing run.
            force: Delete an existing run and start anew.

        Raises:
            DscnetError: If the folder holds something and neither is said, or what it holds is no
                run.
        """
        occupied = self.root.is_dir() and any(self.root.iterdir())
        if self.root.exists() and not self.root.is_dir():
            raise DscnetError(f"{self.root} is a file: name a folder for the run")
        if occupied and not (resume or force):
            raise DscnetError(
                f"{self.root} is not empty: --resume goes on, --force deletes it and starts anew"
            )
        # Somebody's own project may hold a config.yaml too.
        if occupied and not (self.config.exists() and self.environment.exists()):
            raise DscnetError(
                f"{self.root} holds no run (no config.yaml with environment.json): name a folder"
                " that is empty or does not exist; this one is left alone"
            )
        if occupied and force:
            shutil.rmtree(self.root)
        self.root.mkdir(parents=True, exist_ok=True)

    def write_config(self, config: Config) -> None:
        """Write complete settings and the environment they ran in.

        A file with former settings stays if they had other values than are used now: nothing else
        records them.
        """
        text = yaml.safe_dump(to_dict(config), sort_keys=False, default_flow_style=None)
        stored = read_mapping(self.config) if self.config.exists() else {}
        if not other_values(dotted_settings(stored)):
            write_text(self.config, text)
        write_text(self.environment, json.dumps(environment(config.seed), indent=2) + "\n")

    def read_config(self, *, finished: bool = True) -> Config:
        """Settings of the run.

        Args:
            finished: Nothing will be computed with them: former settings may have any value.

        Raises:
            DscnetError: If the folder holds no run or its settings are not this version's.
        """
        if not self.config.exists():
            raise DscnetError(f"{self.root} holds no run: no config.yaml in it")
        try:
            config = read_config(self.config, finished=finished)
            if "scale" not in read_mapping(self.config):
                # An earlier version's, which knew the photo's own size alone.
                config.scale.relative_to = "photo"
        except ValueError as error:
            raise DscnetError(str(error)) from error
        return config

    def read_card(self) -> dict[str, Any]:
        """What ``model.json`` says: class names, photo normalisation, data-set name."""
        if not self.model_card.exists():
            raise DscnetError(
                f"{self.root} holds no trained network: no {self.model_card.name} in it"
            )
        return read_record(self.model_card)

    def read_segmenter_card(self) -> dict[str, Any]:
        """The same of the segmentation network; earlier versions wrote one for both networks."""
        if not self.segmenter_card.exists():
            return self.read_card()
        return read_record(self.segmenter_card)

    def is_done(self, stage: str, fingerprint: str) -> bool:
        """Whether the stage has finished with exactly these inputs, settings and code."""
        return self._records().get(stage, {}).get("fingerprint") == fingerprint

    def fingerprint_of(self, stage: str) -> str | None:
        """Fingerprint the stage last finished with; None if it has not."""
        value = self._records().get(stage, {}).get("fingerprint")
        return None if value is None else str(value)

    def record_of(self, stage: str) -> dict[str, Any]:
        """What ``stages.json`` holds of a stage, finished or started; empty if nothing.

        ``inputs`` says what it was made from, which earlier versions did not record.
        """
        return self._records().get(stage, {})

    def start(
        self,
        stage: str,
        fingerprint: str,
        *,
        stale: Iterable[str] = (),
        inputs: Mapping[str, Any] | None = None,
    ) -> bool:
        """Record that a stage starts; the ``stale`` ones, which read its files, must run again.

        Args:
            stage: Its name.
            fingerprint: Of what it is made from.
            stale: Stages whose records are dropped.
            inputs: What it is made from.

        Returns:
            Whether an interrupted try with the same fingerprint can go on.
        """
        records = {name: record for name, record in self._records().items() if name not in stale}
        resumable = records.get(stage, {}).get("started") == fingerprint
        records[stage] = {"started": fingerprint, "inputs": inputs}
        write_text(self.stages, json.dumps(records, indent=2) + "\n")
        return bool(resumable)

    def finish(
        self,
        stage: str,
        fingerprint: str,
        seconds: float,
        *,
        inputs: Mapping[str, Any] | None = None,
    ) -> None:
        """Record that the stage has finished."""
        records = self._records()
        done = {"fingerprint": fingerprint, "seconds": round(seconds, 1), "inputs": inputs}
        records[stage] = done
        write_text(self.stages, json.dumps(records, indent=2) + "\n")

    def seconds(self) -> dict[str, float]:
        """Wall time of each finished stage, seconds."""
        return {
            name: record["seconds"]
            for name, record in self._records().items()
            if "seconds" in record
        }

    def _records(self) -> dict[str, dict[str, Any]]:
        if not self.stages.exists():
            return {}
        return read_record(self.stages)


def fingerprint(*parts: Any) -> str:
    """A hash of anything that ``json`` can write."""
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]


def file_mark(path: Path) -> list[Any]:
    """What tells a file from another of its name, wherever a copy lies and whenever it was made.

    Its size and both ends: a compressed file whose content changes ends otherwise, a PNG in its
    checksum, and photos are turned at the beginning. Of uncompressed ones the time says the rest.
    """
    with path.open("rb") as file:
        ends = file.read(_END)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _END))
        ends += file.read()
    mark = [size, hashlib.sha256(ends).hexdigest()[:16]]
    return [*mark, path.stat().st_mtime_ns] if path.suffix.lower() in _UNCOMPRESSED else mark


def environment(seed: int) -> dict[str, Any]:
    """Versions, revision and hardware, for whoever wants the same numbers again."""
    import torch

    names = (
        "dscnet",
        "torch",
        "torchvision",
        "timm",
        "lightning",
        "segmentation-models-pytorch",
        "numpy",
    )
    return {
        "seed": seed,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor(),
        "cpu_threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "git_revision": _git_revision(),
        "versions": {name: _version(name) for name in names},
    }


def processor() -> str:
    """The processor's name as the system tells it; '' where it does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), ""
    )


def fresh_folder(path: Path) -> None:
    """An empty folder in the place of what a stage wrote before."""
    if path.exists():
        shutil.rmtree(path)
    path.mkdir(parents=True)


def read_record(path: Path) -> dict[str, Any]:
    """Read one of the run's JSON files.

    Raises:
        DscnetError: If it is missing or no JSON object.
    """
    remedy = "remove it and run the stage that wrote it again"
    content = read_json(path, remedy)
    if not isinstance(content, dict):
        raise DscnetError(f"{path}: holds no JSON object; {remedy}")
    return content


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    with whole_file(path) as file:
        file.write(text.encode())


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    # A commit's hash, whatever tags there are.
    options = ["--always", "--dirty", "--abbrev=12", "--exclude=*"]
    command = ["git", "-C", str(PACKAGE), "describe", *options]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None
