"""What each CAM baseline declares: its network, that network's options, and its capabilities.

No torch: the settings read the capabilities. A network is imported when it is first built.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from dscnet.files.similar_names import did_you_mean
from dscnet.plugins import VARIABLE, load_plugins

if TYPE_CHECKING:
    from dscnet.config import Config

CRITERIA = ("agreement", "class_otsu", "otsu", "tags", "stability")
"""Criteria of the background threshold that need only CAMs at one scale, plain and refined."""


def no_options(config: Config) -> dict[str, Any]:
    """The options of a network that has no settings of its own."""
    return {}


@dataclass(frozen=True)
class Baseline:
    """A CAM baseline: ``model.name`` selects it, and the settings read what it declares.

    Args:
        name: What ``model.name`` calls it.
        network: A ``dscnet.models.PlainCam``, usually a subclass, or ``"package.module:Class"``,
            imported on first use. Called as ``network(backbone, num_classes, **options)``.
        options: Settings -> keyword arguments of the network, added to those that every network
            gets (the arguments of ``PlainCam`` except ``context``).
        refines_cam: ``score_maps`` gives ``refined`` beside ``cam``, without DSCNet too.
        has_rounds: It is trained in AuxSegNet's rounds (``auxseg.*``), and its own branch can be
            the segmentation network. Its network is an ``AuxSegNet`` or a subclass.
        uses_saliency: It is trained on the data set's saliency maps, unless ``auxseg.saliency``
            replaces them.
        criterion: Estimates the background threshold for ``label.bg_score: auto``, one of
            ``CRITERIA``. ``agreement`` compares plain and refined CAMs; without refined ones
            ``class_otsu`` is used.

    Raises:
        ValueError: If the criterion is unknown or ``network`` names no class.
    """

    name: str
    network: str | Callable[..., Any]
    options: Callable[[Config], dict[str, Any]] = no_options
    refines_cam: bool = False
    has_rounds: bool = False
    uses_saliency: bool = False
    criterion: str = "agreement"

    def __post_init__(self) -> None:
        if self.criterion not in CRITERIA:
            raise ValueError(
                f"criterion must be one of {', '.join(CRITERIA)}, got {self.criterion!r}"
            )
        if isinstance(self.network, str) and not all(self.network.partition(":")):
            raise ValueError(f"network must be 'package.module:Class', got {self.network!r}")

    def factory(self) -> Callable[..., Any]:
        """The network's class or function; its module is imported here."""
        if not isinstance(self.network, str):
            return self.network
        module, _, name = self.network.partition(":")
        factory: Callable[..., Any] = getattr(import_module(module), name)
        return factory


def _seam_options(config: Config) -> dict[str, Any]:
    return {"view_scale": config.model.view_scale}


def _auxsegnet_options(config: Config) -> dict[str, Any]:
    names = ("branch_channels", "dilations", "branch_norm", "published_row_quirk", "grid_pooling")
    own = {name: getattr(config.auxseg, name) for name in names}
    return {**own, "rows": config.auxseg.affinity_rows}


_BASELINES = {
    baseline.name: baseline
    for baseline in (
        Baseline("cam", "dscnet.models.cam:PlainCam"),
        Baseline("seam", "dscnet.models.seam:Seam", _seam_options, refines_cam=True),
        Baseline(
            "auxsegnet",
            "dscnet.models.auxsegnet:AuxSegNet",
            _auxsegnet_options,
            refines_cam=True,
            has_rounds=True,
            uses_saliency=True,
            # Its affinity moves whole regions, not only edges (decision 19).
            criterion="class_otsu",
        ),
    )
}


def register_baseline(baseline: Baseline) -> None:
    """Add a CAM baseline.

    Raises:
        ValueError: If its name is taken.
    """
    if baseline.name in _BASELINES:
        raise ValueError(f"name must be new, got {baseline.name!r}; registered: {_known()}")
    _BASELINES[baseline.name] = baseline


def find_baseline(name: str) -> Baseline:
    """The baseline called ``name``; plugins are imported if it is not known without them.

    Raises:
        ValueError: If no baseline has this name, or a plugin cannot be imported.
    """
    if name not in _BASELINES:
        load_plugins()
    if name not in _BASELINES:
        raise ValueError(
            f"model name must be one of {_known()}, got {name!r}{did_you_mean(name, _BASELINES)}"
            " (a baseline of another package:"
            f" install that package, or name its module in {VARIABLE})"
        )
    return _BASELINES[name]


def list_baselines() -> list[str]:
    """Names of all baselines, those of plugins included, in alphabetical order."""
    load_plugins()
    return sorted(_BASELINES)


def _known() -> str:
    return ", ".join(sorted(_BASELINES))
