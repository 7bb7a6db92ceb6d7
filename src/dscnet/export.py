"""A run's segmentation network for use elsewhere, each export checked against the original."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dscnet.models import SegmentationPath
from dscnet.models.deeplab import DeepLab
from dscnet.models.segmenter import Segmenter
from dscnet.predictor import Predictor, store
from dscnet.types import DscnetError

TOLERANCE = 1e-3
"""Largest difference of a score, original against export, that counts as the same network."""


class Scores(nn.Module):
    """Normalised photos whose sides are multiples of the stride to ``(B, L, H, W)`` scores.

    One size and no mirror image, whatever ``segment.test_scales``, ``flip_test`` and ``crf`` are.
    """

    def __init__(self, segmenter: Segmenter | DeepLab | SegmentationPath) -> None:
        super().__init__()
        self.segmenter = segmenter

    def forward(self, image: Tensor) -> Tensor:
        """Probabilities over the labels; label 0 = background."""
        # Without the padding of `Segmenter.forward`, whose sizes a fixed graph cannot decide.
        probabilities: Tensor = self.segmenter.net(image).softmax(1)
        return probabilities


def export(
    model: str | Path,
    out: Path,
    kind: Literal["onnx", "safetensors"],
    size: tuple[int, int] = (320, 320),
) -> str:
    """Write the segmentation network of a run folder.

    Args:
        model: Run folder.
        out: File (``onnx``: any batch of photos of one size, class names and normalisation in its
            metadata), or folder (``safetensors``: weights, ``model.json``).
        kind: What to write.
        size: Height and width of the photos that an ``onnx`` file takes, multiples of the stride.

    Returns:
        What was written and how far it is from the original.

    Raises:
        ValueError: If ``size`` is no multiple of the output stride.
        DscnetError: If the folder holds no network, the ``onnx`` extra is missing, or the export
            differs.
    """
    predictor = Predictor.from_run(model)
    card = {
        "classes": ["background", *predictor.classes],
        "mean": list(predictor.mean),
        "std": list(predictor.std),
    }
    if kind == "safetensors":
        out.mkdir(parents=True, exist_ok=True)
        store(predictor.model, out / "model.safetensors")
        (out / "model.json").write_text(json.dumps(card, indent=2) + "\n")
        return f"{out}: weights and model.json"
    assert isinstance(predictor.model, Segmenter | DeepLab | SegmentationPath)
    stride = predictor.model.output_stride
    if any(side < 1 or side % stride for side in size):
        raise ValueError(f"size must be multiples of the output stride {stride}, got {size}")
    difference = _export_onnx(Scores(predictor.model).cpu().eval(), out, card, size)
    return f"{out}: checked against the original, largest difference {difference:.1e}"


def _export_onnx(network: Scores, out: Path, card: dict[str, Any], size: tuple[int, int]) -> float:
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  (torch's exporter needs it)
    except ImportError as error:
        raise DscnetError(f"{error.name} is missing: pip install 'dscnet[onnx]'") from error
    generator = torch.Generator().manual_seed(0)
    # A batch of one would be taken for a constant. Height and width are constants: the trunk pads
    # by them in a way that takes the exporter minutes to solve for free sizes.
    example = torch.randn(2, 3, *size, generator=generator)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(out.name + ".tmp")
    program = torch.onnx.export(
        network,
        (example,),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        input_names=["image"],
        output_names=["probabilities"],
        verbose=False,
    )
    assert program is not None  # it is None only for the exporter that `dynamo=True` replaces
    model = program.model_proto
    for key, value in card.items():
        model.metadata_props.add(key=key, value=json.dumps(value))
    onnx.save(model, temporary)
    session = onnxruntime.InferenceSession(str(temporary), providers=["CPUExecutionProvider"])
    photos = torch.randn(3, 3, *size, generator=generator)
    with torch.inference_mode():
        expected = network(photos)
    (got,) = session.run(None, {"image": photos.numpy()})
    difference = float((torch.from_numpy(got) - expected).abs().max())
    if difference > TOLERANCE:
        temporary.unlink()
        raise DscnetError(
            f"the export differs from the network by {difference:.1e}; nothing was written"
        )
    os.replace(temporary, out)
    return difference
