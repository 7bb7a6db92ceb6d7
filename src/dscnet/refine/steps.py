"""Refinement steps by name, and how they follow one another.

A step is a :class:`RefinementStep`, at the end of the file that holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from torch import Tensor

from dscnet.plugins import load_plugins

Step = Callable[[Tensor, Tensor], Tensor]
"""Maps label probabilities ``(B, L, H, W)`` and uint8 photos ``(B, 3, H, W)`` to probabilities."""


@dataclass(frozen=True)
class RefinementStep:
    """A refinement step and what it depends on. ``job`` is the run: settings, folder, photos.

    Attributes:
        name: Its name in ``refine.steps``.
        open: Called with the job, once a run; returns what gives the :data:`Step` of a photo.
        needs: Stages whose files it reads beside the CAMs, given the settings.
        settings: Settings beyond ``refine`` that change what it makes, by name.
        check: Called with the job before anything is trained; refuses settings and files that it
            cannot work with.
        check_photos: Called with the job where the photos are checked one by one.
        trained: Called with the job; the trainings that it keeps, as a stage's.
        from_scores: Whether it starts from scores as they are where it is the first step, instead
            of from labels trusted in part.
        own_background: Whether it decides what is background itself.
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
"""Modules whose ``STEP`` is the step of that name; each is imported when it is asked for."""

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
    """The steps by name, in the order asked for.

    Raises:
        ValueError: If a name is unknown or comes twice.
    """
    chosen = list(names)
    if set(chosen) - {*list_steps()}:
        load_plugins()
    if set(chosen) - {*list_steps()} or len(set(chosen)) < len(chosen):
        known = ", ".join(list_steps())
        raise ValueError(f"steps must be among {known}, none twice, got {chosen}")
    return [_REGISTERED.get(name) or import_module(_HOMES[name]).STEP for name in chosen]


def code_of_steps(names: Iterable[str]) -> tuple[str, ...]:
    """Modules that hold the steps."""
    return tuple(_HOMES.get(step.name, step.open.__module__) for step in find_steps(names))


def refine_labels(
    probabilities: Tensor, photo: Tensor, steps: Mapping[str, Step]
) -> Iterator[tuple[str, Tensor]]:
    """Run the steps one after the other on one photo.

    Args:
        probabilities: ``(L', H, W)``.
        photo: ``(3, H, W)`` uint8.
        steps: By name, in their order.

    Yields:
        Each step's name and the probabilities after it, ``(L', H, W)``; as they were for a photo
        that can only be background.
    """
    for name, step in steps.items():
        if len(probabilities) > 1:
            probabilities = step(probabilities[None], photo[None])[0]
        yield name, probabilities
