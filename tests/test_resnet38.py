from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dscnet.models import ResNet38, create_resnet38, resnet38_feature_maps
from dscnet.models.backbones import create_backbone
from dscnet.types import DscnetError
from published_oracle import narrow_resnet38, resnet38_maps
from test_mxnet_params import params_file

REFERENCE = Path(__file__).resolve().parents[2] / "shared" / "reference"


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def published_shapes(table: Path) -> dict[str, tuple[int, ...]]:
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return {
        row["key"]: ()
        if row["shape"] == "scalar"
        else tuple(int(side) for side in row["shape"].split("x"))
        for row in rows
    }


@pytest.mark.parametrize("size", [(16, 16), (21, 30)])
def test_taps_equal_the_description(size: tuple[int, int]) -> None:
    backbone, image = narrow_resnet38().eval(), noise(2, 3, *size)
    state = dict(backbone.state_dict())
    expected = resnet38_maps(state, image)
    maps = resnet38_feature_maps(state, image)
    assert list(maps) == ["conv3", "conv4", "conv5", "conv6"]
    own = dict(zip(["conv4", "conv5", "conv6"], backbone(image), strict=True))
    for outputs in (own, maps):
        for name, values in outputs.items():
            assert values.abs().max() > 0.1
            torch.testing.assert_close(values, expected[name], rtol=1e-10, atol=1e-10)


def test_channel_dropout_lies_before_the_last_two_convolutions_of_a_bottleneck() -> None:
    backbone, image = narrow_resnet38().eval(), noise(1, 3, 16, 16)
    masks = {}
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Dropout2d):
            channels = backbone.get_submodule(name.replace("dropout_", "bn_branch")).num_features
            masks[name] = mask = (noise(channels) > 0).double()[:, None, None]
            module.register_forward_hook(lambda module, given, x, mask=mask: x * mask)
    assert list(masks) == [f"{b}.dropout_{c}" for b in ("b6", "b7") for c in ("2b1", "2b2")]
    assert [backbone.get_submodule(name).p for name in masks] == [0.3, 0.3, 0.5, 0.5]
    expected = resnet38_maps(backbone.state_dict(), image, masks)["conv6"]
    torch.testing.assert_close(backbone(image)[2], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("side", "maps"), [(321, 41), (134, 17), (128, 16)])
def test_sides_are_rounded_up(side: int, maps: int) -> None:
    with torch.device("meta"):
        outputs = ResNet38(width=1 / 32)(torch.zeros(1, 3, side, side))
    assert [tuple(one.shape) for one in outputs] == [(1, c, maps, maps) for c in (16, 32, 128)]


@pytest.mark.data
def test_names_and_shapes_are_those_of_the_published_checkpoint() -> None:
    with torch.device("meta"):
        backbone = ResNet38()
    expected = published_shapes(REFERENCE / "keys_seam_resnet38.tsv")
    for head in ("fc8", "f8_3", "f8_4", "f9"):
        del expected[f"{head}.weight"]
    assert {name: tuple(v.shape) for name, v in backbone.state_dict().items()} == expected
    assert backbone.channels == (512, 1024, 4096)
    assert (backbone.name, backbone.output_stride) == ("resnet38", 8)


def test_full_width_trains_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        backbone = ResNet38()
    convolutions = [p for p in backbone.parameters() if p.ndim == 4]
    assert len(convolutions) == 43
    assert sum(p.requires_grad for p in convolutions) == 35
    assert round(sum(p.numel() for p in backbone.parameters() if p.requires_grad) / 1e6, 2) == 104.2


@pytest.mark.parametrize(
    ("stages", "frozen"),
    [(0, set()), (1, {"conv1a"}), (2, {"conv1a", "b2", "b2_1", "b2_2"})],
)
def test_frozen_stages(stages: int, frozen: set[str]) -> None:
    backbone = ResNet38(width=1 / 32, frozen_stages=stages)
    rest = {n.partition(".")[0] for n, p in backbone.named_parameters() if p.ndim == 4}
    learning = {n.partition(".")[0] for n, p in backbone.named_parameters() if p.requires_grad}
    assert rest - learning == frozen
    assert not any(p.requires_grad for p in backbone.parameters() if p.ndim == 1)


def test_batch_norm_rests_in_training() -> None:
    backbone = narrow_resnet38()
    before = {name: values.clone() for name, values in backbone.state_dict().items()}
    assert backbone.eval().train() is backbone
    assert backbone.training and backbone.b6.dropout_2b1.training
    backbone(noise(2, 3, 16, 16))[2].sum().backward()
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and not any(norm.training for norm in norms)
    assert all(torch.equal(v, before[name]) for name, v in backbone.state_dict().items())
    assert backbone.b3.conv_branch1.weight.grad.any()
    assert backbone.b2_2.conv_branch2a.weight.grad is None


def test_gradient_flows_to_tensors_that_ask_for_it() -> None:
    state = dict(narrow_resnet38().state_dict())
    state["b5.conv_branch2a.weight"] = state["b5.conv_branch2a.weight"].clone().requires_grad_()
    maps = resnet38_feature_maps(state, noise(1, 3, 16, 16))
    maps["conv6"].sum().backward()
    assert state["b5.conv_branch2a.weight"].grad.any()
    assert not maps["conv4"].requires_grad


def test_taps_ignore_other_names_and_old_files_lack_counters() -> None:
    state = {
        name: values
        for name, values in narrow_resnet38().state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    image = noise(1, 3, 16, 16)
    maps = resnet38_feature_maps({**state, "fc8.weight": torch.zeros(1)}, image)
    torch.testing.assert_close(maps["conv6"], narrow_resnet38().eval()(image)[2])
    del state["b4_3.bn_branch2a.weight"]
    with pytest.raises(DscnetError, match=r"state_dict does not match.*b4_3\.bn_branch2a\.weight"):
        resnet38_feature_maps(state, image)
    with pytest.raises(DscnetError, match="state_dict does not match"):
        resnet38_feature_maps({}, image)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".params"])
def test_weights_of_a_file(tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture) -> None:
    backbone, path = narrow_resnet38().float(), tmp_path / f"a{suffix}"
    state = {**backbone.state_dict(), "f9.weight": torch.zeros(1)}
    if suffix == ".params":
        params_file(path, {_mxnet_name(name): v for name, v in state.items() if v.ndim})
    elif suffix == ".pth":
        torch.save(state, path)
    else:
        save_file({name: values.contiguous() for name, values in state.items()}, path)
    with caplog.at_level("INFO"):
        loaded = create_resnet38(weights=str(path), width=1 / 32)
    assert "not used: " in caplog.text and "f9.weight" in caplog.text
    for name, values in loaded.state_dict().items():
        if values.ndim:
            assert torch.equal(values, state[name]), name


def _mxnet_name(name: str) -> str:
    """The public file's name of a backbone's name, by taking it apart."""
    leaf = {"bias": "beta", "running_mean": "moving_mean", "running_var": "moving_var"}
    if name in ("conv1a.weight", "f9.weight"):
        return f"arg:{name}" if name[0] == "f" else "arg:conv1a_weight"
    block, *layer, last = name.split(".")
    kind = "aux" if last.startswith("running") else "arg"
    if block == "bn7":
        return f"{kind}:bn7_{leaf.get(last, 'gamma')}"
    stage, _, index = block[1:].partition("_")
    unit = f"{stage}b{index}" if index else f"{stage}a"
    what, branch = layer[0].split("_")
    if what == "conv":
        return f"arg:res{unit}_{branch}_weight"
    return f"{kind}:bn{unit}_{branch}_{leaf.get(last, 'gamma')}"


def test_create_backbone_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = {"width": 1 / 32}
    monkeypatch.setattr(
        "dscnet.models.resnet38.create_resnet38",
        lambda **options: create_resnet38(**options, **narrow),
    )
    backbone = create_backbone("resnet38", output_stride=8, weights="none", frozen_stages=1)
    assert isinstance(backbone, ResNet38)
    assert (
        not backbone.conv1a.weight.requires_grad and backbone.b2.conv_branch2a.weight.requires_grad
    )


def test_what_it_does_not_offer() -> None:
    with pytest.raises(
        DscnetError, match=r"'resnet38' does not support output stride 16.*stride=8"
    ):
        create_backbone("resnet38", weights="none")
    with pytest.raises(ValueError, match="output_stride must be one of .* got 4"):
        create_backbone("resnet38", output_stride=4, weights="none")
    with pytest.raises(DscnetError, match=r"weights 'packaged'.*\.params, \.pth or"):
        create_resnet38(weights="packaged", width=1 / 32)
    with pytest.raises(DscnetError, match=r"none\.params: no such"):
        create_resnet38(weights="none.params", width=1 / 32)
    with pytest.raises(ValueError, match="width must be positive, got 0"):
        ResNet38(width=0)
    with pytest.raises(ValueError, match=r"frozen_stages must be in 0\.\.7, got 8"):
        ResNet38(width=1 / 32, frozen_stages=8)


def test_channels_last_photos_train_in_single_precision() -> None:
    backbone = narrow_resnet38(frozen_stages=1).float()
    image = noise(2, 3, 24, 24).float().contiguous(memory_format=torch.channels_last)
    maps = backbone(image)
    assert all(tap.is_contiguous() for tap in maps)
    maps[2].sum().backward()
    assert backbone.b2.conv_branch2a.weight.grad.isfinite().all()
