"""The training loop, independent of the method: takes a model, an objective and a loader."""

from __future__ import annotations

import csv
import logging
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar
from lightning.pytorch.utilities.types import LRSchedulerConfigType, OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.utils.data import DataLoader

from dscnet.distributed.batch import batch_mean, shared_batch
from dscnet.distributed.ranks import rank
from dscnet.distributed.trainer import ranks_of_trainer
from dscnet.types import Batch, DscnetError, LossTerms, ModelOutput

log = logging.getLogger("dscnet")

Objective = Callable[[ModelOutput, Batch, float], LossTerms]


def parameter_groups(
    model: nn.Module,
    *,
    lr: float,
    new_lr_factor: float,
    weight_decay: float,
    bias_lr_factor: float = 2.0,
) -> list[dict[str, Any]]:
    """SEAM's four parameter groups: backbone and new layers, weights and biases.

    The learning rate of biases is multiplied by ``bias_lr_factor``, and they have no weight decay.
    Everything outside ``model.backbone`` and ``model.slow_modules`` is new; its learning rate is
    multiplied by ``new_lr_factor``. Frozen parameters and empty groups are omitted.
    """
    slow = [
        getattr(model, name, None) for name in ("backbone", *getattr(model, "slow_modules", ()))
    ]
    pretrained = {id(p) for module in slow if module is not None for p in module.parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = (id(parameter) not in pretrained, name.endswith("bias"))
            groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": lr * (new_lr_factor if new else 1.0) * (bias_lr_factor if bias else 1.0),
            "weight_decay": 0.0 if bias else weight_decay,
        }
        for (new, bias), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


class TrainingModule(L.LightningModule):
    """A model, its objective, the optimiser and SEAM's learning-rate schedule.

    Args:
        model: Maps ``(image, tags)`` to a ``ModelOutput``; its ``backbone`` is the pretrained part.
        objective: Maps ``(output, batch, progress)`` to ``LossTerms``.
        optimizer: ``sgd`` or ``adamw``.
        lr: Learning rate of the backbone's weights.
        new_lr_factor: As for :func:`parameter_groups`.
        momentum: Momentum of SGD.
        weight_decay: As for :func:`parameter_groups`.
        bias_lr_factor: As for :func:`parameter_groups`.
        poly_power: Exponent of the polynomial decay, applied per step.
        lr_warmup: Fraction of the steps for linear warm-up, in [0, 1).
        total_steps: Steps until the learning rate is 0.
        seed: The randomness of an epoch depends only on the seed and the epoch, so that a resumed
            training is identical.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        *,
        optimizer: str = "sgd",
        lr: float = 0.01,
        new_lr_factor: float = 10.0,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        bias_lr_factor: float = 2.0,
        poly_power: float = 0.9,
        lr_warmup: float = 0.0,
        total_steps: int,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if optimizer not in ("sgd", "adamw"):
            raise ValueError(f"optimizer must be 'sgd' or 'adamw', got {optimizer!r}")
        self.model = model
        self.objective = objective
        self.optimizer_name = optimizer
        self.rates = {
            "lr": lr,
            "new_lr_factor": new_lr_factor,
            "weight_decay": weight_decay,
            "bias_lr_factor": bias_lr_factor,
        }
        if not 0 <= lr_warmup < 1:
            raise ValueError(f"lr_warmup must be in [0, 1), got {lr_warmup}")
        self.momentum, self.poly_power, self.lr_warmup = momentum, poly_power, lr_warmup
        self.total_steps, self.seed = total_steps, seed

    def on_train_epoch_start(self) -> None:
        """Seed dropout and random initialisation by seed and epoch."""
        torch.manual_seed(self.seed * 100_003 + self.current_epoch)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> int | None:
        """End the epoch (Lightning's -1) once all steps are done, possibly mid-epoch.

        Not by ``max_steps``: with it, Lightning counts epochs differently when it resumes.
        """
        return -1 if self.global_step >= self.total_steps else None

    def training_step(self, batch: Batch, index: int) -> dict[str, Any]:
        """One step; terms are logged under their names, ``total`` is minimised.

        The logged terms are means over the ranks: those of the whole batch.
        """
        image = batch.image.contiguous(memory_format=torch.channels_last)
        with shared_batch():
            output = self.model(image, batch.tags)
            terms = self.objective(output, batch, self.global_step / self.total_steps)
            total = terms.total
            values = {**terms.terms, "total": total}
            means = batch_mean(torch.stack([value.detach() for value in values.values()]))
        logged = dict(zip(values, means, strict=True))
        self.log("loss", total.detach(), prog_bar=True, logger=False, batch_size=len(batch.ids))
        return {"loss": total, "terms": logged}

    def rate(self, step: int) -> float:
        """Learning-rate multiplier at a step, from 0: linear warm-up, polynomial decay."""
        rise = min(1.0, (step + 1) / max(1.0, self.lr_warmup * self.total_steps))
        return float(rise * max(0.0, 1 - step / self.total_steps) ** self.poly_power)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """SGD or AdamW over SEAM's parameter groups; the learning rate is updated every step."""
        groups = parameter_groups(self.model, **self.rates)
        if isinstance(self.objective, nn.Module) and any(True for _ in self.objective.parameters()):
            raise ValueError("an objective must not have parameters: put them into the model")
        optimizer: torch.optim.Optimizer
        if self.optimizer_name == "sgd":
            optimizer = torch.optim.SGD(groups, lr=self.rates["lr"], momentum=self.momentum)
        else:
            optimizer = torch.optim.AdamW(groups, lr=self.rates["lr"])
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.rate)
        return OptimizerLRSchedulerConfig(
            optimizer=optimizer,
            lr_scheduler=LRSchedulerConfigType(scheduler=schedule, interval="step"),
        )


class CsvLog(Callback):
    """Writes ``metrics.csv``: step, epoch, learning rate and every loss term, one row per step.

    A resumed training continues the file after the checkpoint's step.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self.lr = ""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the rows logged before the training was resumed."""
        if trainer.global_step and self.path.exists():
            with self.path.open(encoding="utf-8", newline="") as file:
                self.rows = [
                    row for row in csv.DictReader(file) if int(row["step"]) < trainer.global_step
                ]

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Record the learning rate; at the end of the step it is already the next one's."""
        self.lr = f"{trainer.optimizers[0].param_groups[0]['lr']:.6g}"

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, *_: Any) -> None:
        """Record the step that has just ended."""
        values = {name: f"{float(value):.6g}" for name, value in outputs["terms"].items()}
        when = {"step": trainer.global_step - 1, "epoch": trainer.current_epoch, "lr": self.lr}
        self.rows.append(when | values)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the whole file; an interrupted epoch is trained and logged again."""
        when = ("step", "epoch", "lr")
        terms = "  ".join(f"{k} {v}" for k, v in self.rows[-1].items() if k not in when)
        log.info("epoch %d of %s: %s", trainer.current_epoch + 1, trainer.max_epochs, terms)
        if rank() > 0:
            return
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        with temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
        os.replace(temporary, self.path)


class CollapseWatch(Callback):
    """Warns if a loss ends no lower than that of the best constant prediction.

    Args:
        term: Name of the loss term.
        floor: Its value for the best constant prediction.
    """

    def __init__(self, term: str, floor: float) -> None:
        self.term, self.floor = term, floor
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, *_: Any) -> None:
        """Collect the term; stop the training if it is not finite."""
        value = float(outputs["terms"][self.term])
        if not math.isfinite(value):
            raise DscnetError(
                f"the loss '{self.term}' became {value} at step {trainer.global_step}:"
                " lower the learning rate"
            )
        self.values.append(value)

    @property
    def last(self) -> float:
        """Mean over the last tenth of the steps; NaN before the first."""
        last = self.values[-max(1, len(self.values) // 10) :]
        return sum(last) / len(last) if last else math.nan

    @property
    def collapsed(self) -> bool:
        """Whether it ended at 0.9 of the floor or above; if tags never vary the floor is 0."""
        return self.floor > 0 and self.last >= 0.9 * self.floor

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Warn the user."""
        if self.collapsed:
            log.warning(
                "loss '%s' ended at %.3f, no better than predicting class frequencies (%.3f). Lower"
                " train.lr or train longer.",
                self.term,
                self.last,
                self.floor,
            )


class KeepBest(Callback):
    """Keeps the weights of the epoch with the highest score, the later one on ties.

    Scores and weights are part of the checkpoint, so a resumed training makes the same choice.
    Scoring does not affect the training.

    Args:
        score: Scores the model in evaluation mode after an epoch; higher is better.

    Attributes:
        scores: One per epoch so far.
    """

    def __init__(self, score: Callable[[Any], float]) -> None:
        self.score = score
        self.scores: list[float] = []
        self.weights: dict[str, Tensor] = {}

    @property
    def epoch(self) -> int:
        """The epoch whose weights are kept, from 1; 0 before the end of the first."""
        reversed_ = self.scores[::-1]
        return len(reversed_) - reversed_.index(max(reversed_)) if reversed_ else 0

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Score the model, and copy its weights unless an earlier epoch scored higher."""
        model = pl_module.model
        assert isinstance(model, nn.Module)
        # Some modules stay in evaluation mode during training: restore each one's own mode.
        modes = [(part, part.training) for part in model.modules()]
        score = self.score(model.eval())
        for part, mode in modes:
            part.training = mode
        if math.isnan(score):
            raise DscnetError(
                f"the score of epoch {trainer.current_epoch + 1} is not a number: lower the"
                " learning rate"
            )
        self.scores.append(score)
        if self.epoch == len(self.scores):
            self.weights = {
                name: value.detach().cpu().clone() for name, value in model.state_dict().items()
            }
        log.info("score %.6g; keeping epoch %d", score, self.epoch)

    def restore(self, model: nn.Module) -> None:
        """Load the kept weights, if any epoch has ended."""
        if self.weights:
            model.load_state_dict(self.weights)

    def state_dict(self) -> dict[str, Any]:
        """State for the checkpoint."""
        return {"scores": self.scores, "weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        self.scores, self.weights = list(state_dict["scores"]), state_dict["weights"]


def tag_entropy(tags: Tensor) -> float:
    """Tag loss of always predicting class frequencies; ``tags`` is ``(N, C)`` in {0, 1}."""
    rate = tags.float().mean(0).clamp(1e-6, 1 - 1e-6)
    return float(-(rate * rate.log() + (1 - rate) * (1 - rate).log()).mean())


def fit(
    module: TrainingModule,
    loader: DataLoader[Any],
    *,
    epochs: int,
    folder: Path,
    log_path: Path,
    clip: float = 0.0,
    precision: str = "32",
    accelerator: str = "auto",
    deterministic: bool = True,
    resume: bool = False,
    callbacks: Iterable[Callback] = (),
    progress: bool = True,
) -> None:
    """Train for ``epochs`` or until the learning rate is 0.

    A checkpoint is written to ``folder/last.ckpt`` after each epoch.

    Args:
        module: The module to train, in place.
        loader: Batches of the training photos.
        epochs: Passes over ``loader``.
        folder: Checkpoint folder.
        log_path: CSV file of the losses.
        clip: Maximum gradient norm; 0 = no clipping.
        precision: Lightning's ``precision``.
        accelerator: Lightning's ``accelerator``.
        deterministic: Use deterministic operations where torch has them.
        resume: Continue from ``folder/last.ckpt`` if it exists.
        callbacks: Additional Lightning callbacks.
        progress: Show a progress bar.
    """
    checkpoint = ModelCheckpoint(
        folder, filename="last", save_top_k=1, enable_version_counter=False
    )
    # In a log file CsvLog's line per epoch is more useful than a progress bar.
    progress = progress and sys.stderr.isatty()
    bar: list[Callback] = [RichProgressBar()] if progress else []
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator=accelerator,
        **ranks_of_trainer(),
        precision=precision,  # type: ignore[arg-type]
        gradient_clip_val=clip or None,
        callbacks=[CsvLog(log_path), checkpoint, *bar, *callbacks],
        logger=False,
        enable_progress_bar=progress,
        enable_model_summary=False,
        default_root_dir=folder,
        deterministic="warn" if deterministic else False,
    )
    last = folder / "last.ckpt"
    resumed = str(last) if resume and last.exists() else None
    with warnings.catch_warnings():
        # Frozen batch normalisation stays in evaluation mode; workers are the user's choice.
        warnings.filterwarnings("ignore", "Found .* in eval mode")
        warnings.filterwarnings("ignore", ".*does not have many workers")
        # Its successor is not in older versions of torch.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated")
        # Resuming reuses the folder.
        warnings.filterwarnings("ignore", "Checkpoint directory .* is not empty")
        # Lightning itself uses a torch function that is deprecated in newer versions.
        warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)
        # Where torch has no deterministic implementation, the usual one is intended.
        warnings.filterwarnings("ignore", ".*does not have a deterministic implementation")
        try:
            trainer.fit(module, loader, ckpt_path=resumed, weights_only=True if resumed else None)
        except SystemExit:
            # Lightning exits the program when interrupted.
            if not trainer.interrupted:
                raise
    if trainer.interrupted:
        raise KeyboardInterrupt
