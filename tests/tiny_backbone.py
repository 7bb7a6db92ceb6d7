"""A backbone small enough to reckon with, for tests of the CAM networks."""

from __future__ import annotations

from torch import Tensor, nn


class TinyBackbone(nn.Module):
    """Three maps at strides 2, 4 and 4."""

    channels = (4, 5, 6)
    output_stride = 4

    def __init__(self) -> None:
        super().__init__()
        self.low = nn.Conv2d(3, 4, 2, 2)
        self.mid = nn.Conv2d(4, 5, 2, 2)
        self.high = nn.Conv2d(5, 6, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        low = self.low(image).relu()
        mid = self.mid(low).relu()
        return low, mid, self.high(mid).relu()
