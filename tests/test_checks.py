from __future__ import annotations

import pytest

from dscnet.config import Config, ModelConfig, SegmentConfig
from dscnet.pipeline.checks import _check_segmenter
from dscnet.types import DscnetError


@pytest.mark.parametrize(
    ("stride", "error", "said"),
    [
        (None, ValueError, r"output_stride must be one of \(8, 16\), got 32"),
        (
            16,
            DscnetError,
            "does not support output stride 16.*Choose a backbone that can be dilated",
        ),
    ],
)
def test_what_the_segmentation_network_cannot_have_names_its_settings(stride, error, said):
    model = ModelConfig(backbone="maxvit_tiny_rw_224", output_stride=32, weights="none")
    with pytest.raises(error, match=rf"{said}.*\(segment\.backbone and segment\.output_stride"):
        _check_segmenter(Config(model=model, segment=SegmentConfig(output_stride=stride)))
    own = SegmentConfig(output_stride=16, backbone="tf_efficientnet_lite0")
    _check_segmenter(Config(model=model, segment=own))
