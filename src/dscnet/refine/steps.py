"""Registry of the refinement steps, and the loop that applies them.

Each step is a file that ends in its :class:`RefinementStep`, ``STEP``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from torch import Tensor

from dscnet.files.similar_names import did_you_mean
from dscnet.plugins import load_plugins

Step = Callable[[Tensor, Tensor], Tensor]
"""Maps label probabilities ``(B, L, H, W)`` and uint8 photos ``(B, 3, H, W)`` to probabilities."""


@dataclass(frozen=True)
class RefinementStep:
    """A refinement step and its dependencies. ``job`` is the run: settings, folder, photos.

    Attributes:
        name: Its name in ``refine.steps``.
        open: Called with the job once per run; returns a function from a photo to its
            :data:`Step`.
        needs: Stages whose files it reads besides the CAMs, given the settings.
        settings: Settings beyond ``refine`` that affect its results, by name.
        check: Called with the job before anything is trained; rejects invalid settings and files.
        check_photos: Called with the job when photos are validated one by one.
        trained: Called with the job; returns its trainings, as for a stage.
        from_scores: Whether it takes CAM scores if it is the first step, instead of labels with a
            fixed certainty.
        own_background: Whether it determines the background itself.
        saliency: Whether it reads saliency maps.
    """

    name: str
    open: Callable[[Any], Callable[[Any], Step]]
    needs: Callable[[Any], tuple[str, ...]] = lambda config: ()
    settings: Callable[[Any], Mapping[str, Any]] = lambda config: {}
    check: Callable[[Any], None] = lambda job: None
    check_photos: Callable[[Any], None] = lambda job: None
    trained: Callable[[Any], Iterable[Any]] = lambda job: ()
    from_scores: bool = False
    own_background: bool = False
    saliency: bool = False


_HOMES = {
    "pamr": "dscnet.refine.pamr",
    "crf": "dscnet.refine.crf",
    "walk": "dscnet.pipeline.refinement.walk",
    "masks": "dscnet.pipeline.refinement.masks",
    "affinity": "dscnet.pipeline.refinement.affinity",
    "irn": "dscnet.pipeline.refinement.irn",
}
"""Modules of the built-in steps, which define ``STEP``; imported on first use."""

_REGISTERED: dict[str, RefinementStep] = {}


def list_steps() -> list[str]:
    """Names of the refinement steps."""
    return [*_HOMES, *_REGISTERED]


def register_step(step: RefinementStep) -> None:
    """Add a refinement step.

    Raises:
        ValueError: If the name is taken.
    """
    if step.name in list_steps():
        raise ValueError(f"name must be new, got {step.name!r}; taken: {', '.join(list_steps())}")
    _REGISTERED[step.name] = step


def find_steps(names: Iterable[str]) -> list[RefinementStep]:
    """Find steps by name, in the given order.

    Raises:
        ValueError: If a name is unknown or occurs twice.
    """
    chosen = list(names)
    if set(chosen) - {*list_steps()}:
        load_plugins()
    if set(chosen) - {*list_steps()} or len(set(chosen)) < len(chosen):
        known = list_steps()
        hints = (did_you_mean(name, known) for name in chosen if name not in known)
        raise ValueError(
            f"steps must be among {', '.join(known)}, none twice, got {chosen}"
            f"{next(hints, '')} (a step of another package:"
            " install that package, or name its module in DSCNET_PLUGINS)"
        )
    return [_REGISTERED.get(name) or import_module(_HOMES[name]).STEP for name in chosen]


def code_of_steps(names: Iterable[str]) -> tuple[str, ...]:
    """Modules of the steps."""
    return tuple(_HOMES.get(step.name, step.open.__module__) for step in find_steps(names))


def refine_labels(
    probabilities: Tensor, photo: Tensor, steps: Mapping[str, Step]
) -> Iterator[tuple[str, Tensor]]:
    """Apply the steps in order to one photo.

    Args:
        probabilities: ``(L', H, W)``.
        photo: ``(3, H, W)`` uint8.
        steps: By name, in order.

    Yields:
        Name of each step and the probabilities after it, ``(L', H, W)``; unchanged for photos
        without classes.
    """
    for name, step in steps.items():
        if len(probabilities) > 1:
            probabilities = step(probabilities[None], photo[None])[0]
        yield name, probabilities
