"""Optimisation of the CAM network and of the segmentation network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal


@dataclass
class OptimiserConfig:
    """Optimisation of a network.

    Args:
        epochs: Passes over the photos; null = 8 of the CAM network and 10 of the segmentation
            network, on few photos more: as many as make 350 and 220 steps.
        iterations: Steps, in the place of ``epochs``: the last pass may be a part of one; null =
            ``epochs`` count.
        batch_size: Photos a step.
        optimizer: ``sgd`` or ``adamw``.
        lr: Learning rate of the pretrained trunk.
        new_lr_factor: New layers learn this many times faster.
        bias_lr_factor: Biases learn this many times faster than their layer's weights (SEAM: 2,
            AuxSegNet: 1).
        momentum: SGD momentum.
        published_momentum_quirk: SEAM's code passes the weight decay as SGD's momentum; true does
            as it does.
        published_positional_quirk: AuxSegNet's code passes the weight decay in the place of SGD's
            momentum, and so has no weight decay; true does as it does.
        weight_decay: L2 penalty; none on biases.
        poly_power: Exponent of the polynomial decay.
        lr_warmup: Share of the steps over which the learning rate rises linearly.
        clip: Upper bound of the gradient norm; 0 = none.
        precision: Lightning precision, e.g. ``32``, ``bf16-mixed``.
        accelerator: ``auto``, ``cpu``, ``gpu`` ...
        deterministic: On a GPU, compute in ways that give the same numbers every time, where torch
            has them: a step may take twice as long. On a CPU it always does.
    """

    usual_epochs: ClassVar[int] = 10
    """Passes where neither ``epochs`` nor ``iterations`` is set."""
    fewest_steps: ClassVar[int] = 1
    """Steps that they make at least; the last pass may be a part of one."""

    epochs: int | None = None
    batch_size: int = 16
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.01
    new_lr_factor: float = 10.0
    bias_lr_factor: float = 2.0
    momentum: float = 0.9
    published_momentum_quirk: bool = False
    published_positional_quirk: bool = False
    weight_decay: float = 5e-4
    poly_power: float = 0.9
    lr_warmup: float = 0.0
    clip: float = 10.0
    precision: str = "32"
    accelerator: str = "auto"
    deterministic: bool = False
    iterations: int | None = None

    def steps(self, steps_a_pass: int) -> int:
        """Steps of the whole training.

        Args:
            steps_a_pass: Batches that one pass over the photos makes.
        """
        if self.iterations is not None:
            return self.iterations
        if self.epochs is not None:
            return self.epochs * steps_a_pass
        return max(self.usual_epochs * steps_a_pass, self.fewest_steps)


@dataclass
class TrainConfig(OptimiserConfig):
    """Training of the CAM network.

    Args:
        keep: Weights that count: those of the ``last`` epoch, or of the ``best``, by the mean
            average precision of the validation photos' tags, without such photos by the tag loss
            of the training photos. Costs a pass over these photos an epoch. Never chosen on masks.
    """

    usual_epochs: ClassVar[int] = 8
    fewest_steps: ClassVar[int] = 350

    batch_size: int = 8
    lr: float = 0.005
    lr_warmup: float = 0.1
    keep: Literal["last", "best"] = "last"


@dataclass
class SegmentConfig(OptimiserConfig):
    """The segmentation network that learns from the pseudo labels.

    Args:
        network: ``branch`` (AuxSegNet's own segmentation, nothing more is trained),
            ``deeplabv1``, ``deeplabv2``, ``deeplabv3plus``, or ``auto``: the branch where there is
            one, else ``deeplabv3plus``, on the trunk ``resnet38`` ``deeplabv1``.
        branch_scores: What the branch says: ``refined`` (the scores after its affinity, as
            published) or ``averaged`` (the mean of those before and after it).
        backbone: Its trunk; null = that of ``model``. So are ``weights`` and ``output_stride``.
        weights: Of its trunk, or null.
        output_stride: Of its trunk, or null.
        supervision: ``pseudo`` (labels of this run) or ``full`` (true masks: the ceiling).
        labels: Folder of pseudo labels made elsewhere; null = the run's own.
        rounds: Trainings; each after the first learns from labels that the networks before make
            anew of the photos' tags and the first labels (self-training).
        decoder_channels: Width of DeepLabV3+'s decoder.
        frozen_stages: The stem and this many early stages are not trained.
        crop_size: Side of its training crop, pixels; null = that of ``augment``. So is ``jitter``.
        jitter: Brightness, contrast, saturation and hue jitter, or null.
        scale_range: Photos are scaled by a factor drawn uniformly from this closed range; null =
            to ``augment.long_side``.
        flip_test: Average the scores of a photo with those of its mirror image at inference.
        test_scales: Sizes of a photo whose scores are averaged at inference.
        crf: Fit the probabilities to the photo by a dense CRF at inference.
    """

    fewest_steps: ClassVar[int] = 220

    optimizer: Literal["sgd", "adamw"] = "adamw"
    lr: float = 2e-4
    new_lr_factor: float = 5.0
    weight_decay: float = 1e-2
    network: Literal["auto", "branch", "deeplabv1", "deeplabv2", "deeplabv3plus"] = "auto"
    branch_scores: Literal["refined", "averaged"] = "refined"
    backbone: str | None = None
    weights: str | None = None
    output_stride: int | None = None
    supervision: Literal["pseudo", "full"] = "pseudo"
    labels: str | None = None
    rounds: int = 1
    decoder_channels: int = 128
    frozen_stages: int = 2
    crop_size: int | None = None
    jitter: list[float] | None = None
    scale_range: list[float] | None = None
    flip_test: bool = True
    test_scales: list[float] = field(default_factory=lambda: [1.0, 1.5])
    crf: bool = True
