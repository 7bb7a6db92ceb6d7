"""Optimisation of the networks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal


@dataclass
class OptimiserConfig:
    """Optimisation of a network.

    What is a property here is fixed for some networks and a setting of the others.

    Args:
        epochs: Passes over the training photos; null = 8 for the CAM network and 10 for the
            segmentation network, more on small data sets: at least 350 and 220 steps.
        batch_size: Photos per step.
        lr: Learning rate of the pretrained backbone.
        accelerator: Lightning accelerator: ``auto``, ``cpu``, ``gpu``, ...
        deterministic: Use deterministic GPU kernels where PyTorch has them, for exactly
            repeatable results; up to twice as slow. Always on for CPUs.
    """

    usual_epochs: ClassVar[int] = 10
    """Epochs if neither ``epochs`` nor ``iterations`` is set."""
    fewest_steps: ClassVar[int] = 1
    """Lower bound of the steps of these epochs; the last epoch may be incomplete."""

    epochs: int | None = None
    batch_size: int = 16
    lr: float = 0.01
    accelerator: str = "auto"
    deterministic: bool = False

    @property
    def iterations(self) -> int | None:
        """Steps instead of ``epochs``; None = ``epochs`` count."""
        return None

    @property
    def optimizer(self) -> Literal["sgd", "adamw"]:
        """Optimiser."""
        return "sgd"

    @property
    def new_lr_factor(self) -> float:
        """Learning rate of new layers relative to ``lr``."""
        return 10.0

    @property
    def bias_lr_factor(self) -> float:
        """Learning rate of biases relative to that of their layer's weights."""
        return 2.0

    @property
    def weight_decay(self) -> float:
        """Weight decay of all parameters but biases."""
        return 5e-4

    @property
    def published_momentum_quirk(self) -> bool:
        """Whether the weight decay is used as the momentum, as in SEAM's published code."""
        return False

    @property
    def published_positional_quirk(self) -> bool:
        """The same with no weight decay, as in AuxSegNet's published code."""
        return False

    @property
    def lr_warmup(self) -> float:
        """Part of the steps with a linearly rising learning rate."""
        return 0.0

    @property
    def clip(self) -> float:
        """Upper bound of the gradient norm; 0 = none."""
        return 10.0

    @property
    def precision(self) -> str:
        """Lightning precision."""
        return "32"

    def steps(self, steps_per_epoch: int) -> int:
        """Steps of the whole training.

        Args:
            steps_per_epoch: Batches in one epoch.
        """
        if self.iterations is not None:
            return self.iterations
        if self.epochs is not None:
            return self.epochs * steps_per_epoch
        return max(self.usual_epochs * steps_per_epoch, self.fewest_steps)


@dataclass
class NetworkConfig(OptimiserConfig):
    """Optimisation of the CAM network or the segmentation network.

    Args:
        optimizer: ``sgd`` (momentum 0.9) or ``adamw``.
        new_lr_factor: Learning rate of new layers relative to ``lr``.
        weight_decay: Weight decay of all parameters but biases.
        lr_warmup: Part of the steps, in [0, 1), over which the learning rate rises linearly; over
            all steps it decays polynomially with power 0.9.
        clip: Upper bound of the gradient norm; 0 = no clipping.
        precision: Lightning precision, e.g. ``32`` or ``bf16-mixed``.
        iterations: Training steps, instead of ``epochs``; the last epoch may be incomplete.
    """

    optimizer: Literal["sgd", "adamw"] = "sgd"
    new_lr_factor: float = 10.0
    weight_decay: float = 5e-4
    lr_warmup: float = 0.0
    clip: float = 10.0
    precision: str = "32"
    iterations: int | None = None


@dataclass
class TrainConfig(NetworkConfig):
    """Training of the CAM network.

    Args:
        bias_lr_factor: Learning rate of biases relative to that of their layer's weights (SEAM: 2,
            AuxSegNet: 1).
        published_momentum_quirk: Use ``weight_decay`` also as SGD's momentum, as SEAM's published
            code does.
        published_positional_quirk: Use ``weight_decay`` as SGD's momentum and no weight decay, as
            AuxSegNet's published code does.
        keep: Weights to keep: of the ``last`` epoch or of the ``best`` one, by the tag mAP on the
            validation photos, or by the tag loss on the training photos if there are none; never
            by masks. Costs a pass over these photos per epoch.
        devices: Processes on each machine that share every stage, each with a GPU of its own or
            with a part of the cores; ``batch_size`` counts the photos of all.
        num_nodes: Machines; start one ``torchrun`` on each, see docs/devices.md.
        compile: Compile the backbone by ``torch.compile``, which changes the speed only; ``auto`` =
            if a compiler is found: C++ for CPUs, triton for CUDA.
    """

    usual_epochs: ClassVar[int] = 8
    fewest_steps: ClassVar[int] = 350

    batch_size: int = 8
    lr: float = 0.005
    lr_warmup: float = 0.1
    bias_lr_factor: float = 2.0
    published_momentum_quirk: bool = False
    published_positional_quirk: bool = False
    keep: Literal["last", "best"] = "last"
    devices: int = 1
    num_nodes: int = 1
    compile: bool | Literal["auto"] = False


@dataclass
class SegmentConfig(NetworkConfig):
    """Segmentation network, trained on the pseudo labels.

    Args:
        network: ``branch`` (AuxSegNet's segmentation branch, no further training), ``deeplabv1``,
            ``deeplabv2``, ``deeplabv3plus``, or ``auto``: the branch for AuxSegNet, ``deeplabv1``
            on ``resnet38``, else ``deeplabv3plus``.
        branch_scores: Scores of the branch: ``refined`` (by its affinity, as published) or
            ``averaged`` (mean of those before and after).
        backbone: Backbone; null = that of ``model``.
        weights: Initial weights of the backbone; null = those of ``model``.
        output_stride: Stride of the backbone; null = that of ``model``.
        supervision: ``pseudo`` (pseudo labels) or ``full`` (ground-truth masks: an upper bound).
        labels: Folder of external pseudo labels; null = the pseudo labels of the run.
        rounds: Rounds of self-training; after each but the last the networks so far label the
            training photos again, given their tags and the first labels.
        decoder_channels: Channels of the DeepLabV3+ decoder.
        frozen_stages: Freeze the stem and this many early stages.
        crop_size: Side of the square training crop, pixels; null = that of ``augment``.
        jitter: Strength of the colour jitter; null = that of ``augment``.
        scale_range: Range of the photo scale, drawn uniformly; null = by ``augment.long_side``.
        flip_test: Average over mirrored photos at inference.
        test_scales: Photo scales averaged at inference.
        crf: Refine the predictions by a dense CRF at inference.
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
