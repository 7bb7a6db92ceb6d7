from __future__ import annotations

import pytest
import timm
import torch

from dscnet.models.photo_sizes import least_multiple, refuse_one_size


@pytest.mark.parametrize(
    ("name", "stride", "options", "multiple"),
    [
        ("test_resnet", 16, {"output_stride": 16}, 1),
        ("test_vit", 16, {"dynamic_img_size": True}, 16),
        ("test_vit_relpos", 16, {}, 0),
        ("test_maxvit", 32, {}, 160),
    ],
)
def test_the_multiple_is_what_the_network_itself_takes(name, stride, options, multiple):
    assert least_multiple(name, stride, tuple(options.items())) == multiple
    net = timm.create_model(name, features_only=True, **options).eval()
    side = multiple or stride
    sizes = [(side * (64 // side + 1), side * (64 // side + 2))]
    if multiple > stride:
        sizes.append((side + stride, side))
    for index, size in enumerate(sizes):
        if multiple and index == 0:
            net(torch.zeros(1, 3, *size))
        else:
            with pytest.raises(AssertionError):
                net(torch.zeros(1, 3, *size))


def test_trying_draws_no_random_number():
    before = torch.get_rng_state()
    least_multiple.cache_clear()
    least_multiple("test_vit", 16, (("dynamic_img_size", True),))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_refusal_names_the_model():
    assert "backbone 'x' accepts a single photo size" in str(refuse_one_size("x"))
