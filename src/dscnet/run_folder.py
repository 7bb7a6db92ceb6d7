"""The run folder: paths of its files, and the record of finished stages."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from dscnet.config import Config
from dscnet.config.recipes import read_config, read_mapping
from dscnet.config.settings import dotted_settings, other_values, to_dict
from dscnet.distributed.ranks import on_first
from dscnet.files.atomic import read_json, whole_file
from dscnet.types import DscnetError

log = logging.getLogger("dscnet")

PACKAGE = Path(__file__).parent


@dataclass(frozen=True)
class RunFolder:
    """Paths of the files of a run, as described in the README."""

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
        """Inputs of each finished stage."""
        return self.root / "stages.json"

    @property
    def losses(self) -> Path:
        """Losses of the CAM network, one row per step."""
        return self.root / "metrics.csv"

    @property
    def checkpoints(self) -> Path:
        """Checkpoint and weights of the CAM network."""
        return self.root / "checkpoints"

    @property
    def weights(self) -> Path:
        """Weights of the CAM network."""
        return self.checkpoints / "weights.safetensors"

    @property
    def tag_scores(self) -> Path:
        """Tag validation of the CAM network; written at the end of training."""
        return self.checkpoints / "tags.json"

    @property
    def cams(self) -> Path:
        """CAMs of the training photos."""
        return self.root / "cams"

    @property
    def refined(self) -> Path:
        """Label probabilities of the training photos after each refinement step."""
        return self.root / "refined"

    @property
    def unrefined(self) -> Path:
        """Labels of the training photos before refinement; in a round, those from its CAMs."""
        return self.refined / "before"

    @property
    def refinement(self) -> Path:
        """Seconds of each refinement step."""
        return self.root / "refinement.json"

    @property
    def learned(self) -> Path:
        """Folder of the refinement steps that train a network, one subfolder per step."""
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
        """Folder of one of AuxSegNet's rounds; 0 contains the labels that round 1 is trained on."""
        return RunFolder(self.root / "rounds" / str(index))

    @property
    def threshold(self) -> Path:
        """The background threshold in use, and that of each criterion."""
        return self.root / "threshold.json"

    @property
    def segmenter(self) -> Path:
        """Checkpoint, weights and losses of the segmentation network."""
        return self.root / "segmenter"

    def self_training(self, index: int) -> RunFolder:
        """Folder of a round of self-training: labels; network and masks if it is not the last."""
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
        """Metrics of all stages."""
        return self.root / "metrics.json"

    @property
    def report(self) -> Path:
        """HTML report."""
        return self.root / "report.html"

    def create(self, *, resume: bool = False, force: bool = False) -> None:
        """Create the folder; existing files are only touched with ``resume`` or ``force``.

        Args:
            resume: Continue an existing run.
            force: Delete an existing run first.

        Raises:
            DscnetError: If the folder is not empty and neither is given, or if it is not a run.
        """
        occupied = self.root.is_dir() and any(self.root.iterdir())
        if self.root.exists() and not self.root.is_dir():
            raise DscnetError(f"{self.root} is a file: choose a folder for the run")
        if occupied and not (resume or force):
            raise DscnetError(
                f"{self.root} is not empty: --resume continues the run, --force deletes it first"
            )
        # Other projects may contain a config.yaml too.
        if occupied and not (self.config.exists() and self.environment.exists()):
            raise DscnetError(
                f"{self.root} is not a run folder (no config.yaml and environment.json): choose a"
                " folder that is empty or does not exist"
            )
        if occupied and force:
            shutil.rmtree(self.root)
        self.root.mkdir(parents=True, exist_ok=True)

    def write_config(self, config: Config, *, runs: bool = True) -> None:
        """Write the complete settings and, if a stage runs with them, the environment.

        Existing settings are kept if they contain former settings with other values than are used
        now, as nothing else records them.
        """
        text = yaml.safe_dump(to_dict(config), sort_keys=False, default_flow_style=None)
        stored = read_mapping(self.config) if self.config.exists() else {}
        if not other_values(dotted_settings(stored)):
            write_text(self.config, text)
        if runs:
            write_text(self.environment, json.dumps(environment(config.seed), indent=2) + "\n")

    def read_config(self, *, finished: bool = True) -> Config:
        """Settings of the run.

        Args:
            finished: Nothing will be computed with them, so former settings may have any value.

        Raises:
            DscnetError: If the folder is not a run, or its settings are not valid.
        """
        if not self.config.exists():
            raise DscnetError(f"{self.root} is not a run folder: it has no config.yaml")
        try:
            config = read_config(self.config, finished=finished)
            if "scale" not in read_mapping(self.config):
                # Written by an earlier version, which always used the photo's own size.
                config.scale.relative_to = "photo"
        except ValueError as error:
            raise DscnetError(str(error)) from error
        return config

    def read_card(self) -> dict[str, Any]:
        """Content of ``model.json``: class names, normalisation, name of the data set."""
        if not self.model_card.exists():
            raise DscnetError(
                f"{self.root} contains no trained network: it has no {self.model_card.name}"
            )
        return read_record(self.model_card)

    def read_segmenter_card(self) -> dict[str, Any]:
        """The same for the segmentation network; earlier versions wrote one for both."""
        if not self.segmenter_card.exists():
            return self.read_card()
        return read_record(self.segmenter_card)

    def is_done(self, stage: str, fingerprint: str) -> bool:
        """Whether the stage has finished with this fingerprint."""
        return self._records().get(stage, {}).get("fingerprint") == fingerprint

    def fingerprint_of(self, stage: str) -> str | None:
        """Fingerprint with which the stage last finished; None if it has not."""
        value = self._records().get(stage, {}).get("fingerprint")
        return None if value is None else str(value)

    def record_of(self, stage: str) -> dict[str, Any]:
        """Record of a finished or started stage in ``stages.json``; empty if there is none.

        ``inputs`` is missing in records of earlier versions.
        """
        return self._records().get(stage, {})

    @on_first
    def start(
        self,
        stage: str,
        fingerprint: str,
        *,
        stale: Iterable[str] = (),
        inputs: Mapping[str, Any] | None = None,
    ) -> bool:
        """Record that a stage starts.

        Args:
            stage: Its name.
            fingerprint: Fingerprint of its inputs.
            stale: Stages that read its files; their records are deleted, so they run again.
            inputs: Its inputs.

        Returns:
            Whether an interrupted attempt with the same fingerprint can be resumed.
        """
        records = {name: record for name, record in self._records().items() if name not in stale}
        resumable = records.get(stage, {}).get("started") == fingerprint
        records[stage] = {"started": fingerprint, "inputs": inputs}
        write_text(self.stages, json.dumps(records, indent=2) + "\n")
        return bool(resumable)

    @on_first
    def finish(
        self,
        stage: str,
        fingerprint: str,
        seconds: float,
        *,
        inputs: Mapping[str, Any] | None = None,
        measured: Mapping[str, float | None] | None = None,
    ) -> None:
        """Record that the stage has finished, and what else was measured."""
        records = self._records()
        records[stage] = {
            "fingerprint": fingerprint,
            "seconds": round(seconds, 1),
            "git_revision": git_revision(),
            "inputs": inputs,
            **(measured or {}),
        }
        write_text(self.stages, json.dumps(records, indent=2) + "\n")

    def forget(self, stage: str) -> None:
        """Delete the record of a stage, so that it runs again from the start."""
        records = self._records()
        if records.pop(stage, None) is not None:
            write_text(self.stages, json.dumps(records, indent=2) + "\n")

    def seconds(self) -> dict[str, float]:
        """Wall time of each finished stage, seconds."""
        return {
            name: record["seconds"]
            for name, record in self._records().items()
            if "seconds" in record
        }

    def _records(self) -> dict[str, dict[str, Any]]:
        return read_record(self.stages) if self.stages.exists() else {}


def fingerprint(*parts: Any) -> str:
    """Hash of values that ``json`` can write."""
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]


def environment(seed: int) -> dict[str, Any]:
    """Versions, git revision and hardware, for reproducing results."""
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
        "git_revision": git_revision(),
        "versions": {name: _version(name) for name in names},
    }


def processor() -> str:
    """Name of the processor; '' if unknown."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), ""
    )


@on_first
def fresh_folder(path: Path) -> None:
    """Create an empty folder, deleting an existing one."""
    if path.exists():
        shutil.rmtree(path)
    path.mkdir(parents=True)


def read_record(path: Path) -> dict[str, Any]:
    """Read a JSON file of the run.

    Raises:
        DscnetError: If it is missing or not a JSON object.
    """
    remedy = "delete it and run the stage that wrote it again"
    content = read_json(path, remedy)
    if not isinstance(content, dict):
        raise DscnetError(f"{path}: not a JSON object; {remedy}")
    return content


@on_first
def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, on the first rank."""
    with whole_file(path) as file:
        file.write(text.encode())


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


@cache
def git_revision() -> str | None:
    """Revision of the package's repository, if it is in one."""
    # The hash of the commit, ignoring tags.
    options = ["--always", "--dirty", "--abbrev=12", "--exclude=*"]
    command = ["git", "-C", str(PACKAGE), "describe", *options]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None
