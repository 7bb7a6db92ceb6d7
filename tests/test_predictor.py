from __future__ import annotations

import pytest
import torch
from torch import nn

from dscnet.config import Config
from dscnet.predictor import Predictor, restore, store
from dscnet.run_folder import RunFolder
from dscnet.types import DscnetError, ModelOutput

HALF = (0.5, 0.5, 0.5)


class Brightness(nn.Module):
    """Label 1 where the photo is bright, with a bias that a mirror image turns around."""

    def __init__(self, bias: float = 0.0) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(bias))

    def forward(self, image, tags=None):
        columns = torch.linspace(-1, 1, image.shape[-1]) * self.bias
        score = image.mean(1) + columns
        return ModelOutput(seg_logits=torch.stack([-score, score], 1))


def photo() -> torch.Tensor:
    image = torch.zeros(3, 4, 6, dtype=torch.uint8)
    image[:, :2] = 255
    return image


def test_labels_of_a_photo():
    labels = Predictor(Brightness(), ("bright",), mean=HALF, std=HALF, flip=False)(photo())
    assert labels.tolist() == [[1] * 6] * 2 + [[0] * 6] * 2


def test_flip_averages_the_two_directions():
    one = Predictor(Brightness(3.0), ("bright",), mean=HALF, std=HALF, flip=False)(photo())
    assert one[0, 0] == 0, "the bias alone decides at the border"
    both = Predictor(Brightness(3.0), ("bright",), mean=HALF, std=HALF, flip=True)(photo())
    assert both.tolist() == both[:, ::-1].tolist()


def test_store_and_restore(tmp_path):
    one, two = Brightness(1.5), Brightness()
    store(one, tmp_path / "folder" / "weights.safetensors")
    restore(two, tmp_path / "folder" / "weights.safetensors")
    assert two.bias.item() == 1.5
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["weights.safetensors"]


def test_weights_of_another_network_are_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    store(Brightness(), path)
    with pytest.raises(DscnetError, match="does not fit"):
        restore(nn.Linear(2, 2), path)
    path.write_bytes(b"nothing")
    with pytest.raises(DscnetError, match="weights.safetensors"):
        restore(Brightness(), path)


def test_a_run_without_a_network_says_how_to_train_one(tmp_path):
    RunFolder(tmp_path).write_config(Config())
    with pytest.raises(DscnetError, match="dscnet segment"):
        Predictor.from_run(tmp_path)
