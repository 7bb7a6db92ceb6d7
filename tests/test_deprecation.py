"""Renamed public names still work and warn."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
from torch import nn

from dscnet.context import DualStreamContext
from dscnet.deprecation import RenamedAttribute, renamed_names
from dscnet.models import create_model
from tiny_backbone import TinyBackbone

RENAMED = [
    ("dscnet.context", "LabelDiscriminant", "ShrinkageLDA"),
    ("dscnet.data", "keep_photos", "refuse_overwriting_photos"),
    ("dscnet.data", "unwritten", "write_failure"),
    ("dscnet.losses", "label_shares", "soft_targets"),
    ("dscnet.models", "resnet38_taps", "resnet38_feature_maps"),
]


@pytest.mark.parametrize(("room", "old", "new"), RENAMED)
def test_old_names_work_and_warn(room: str, old: str, new: str) -> None:
    module = import_module(room)
    with pytest.warns(DeprecationWarning, match=f"{room}.{old} is deprecated, use {new}$"):
        value = getattr(module, old)
    assert value is getattr(module, new)
    assert new in module.__all__ and old not in module.__all__
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        module.nothing  # noqa: B018


def test_unknown_names_stay_unknown() -> None:
    lookup = renamed_names("m", {"old": "new"}, {"new": 1})
    with pytest.raises(AttributeError, match="'m' has no attribute 'new'"):
        lookup("new")


def test_renamed_attributes_read_the_new_one() -> None:
    class Thing:
        old = RenamedAttribute("new")
        new = 3

    with pytest.warns(DeprecationWarning, match="Thing.old is deprecated, use new"):
        assert Thing().old == 3
    assert isinstance(Thing.old, RenamedAttribute), "no warning for the class itself"


@torch.no_grad()
def test_old_attributes_of_the_context() -> None:
    context = DualStreamContext(4, 3, semantic=True, fuse=True).eval()
    context.lda.add(torch.eye(128)[:6], torch.arange(6) % 3)
    output = context(torch.randn(1, 4, 3, 3), torch.randn(1, 3, 3, 3))
    for thing, old, new in (
        (context, "discriminant", "lda"),
        (output, "pointing", "pixel_to_group"),
        (output, "likeness", "class_similarity"),
    ):
        with pytest.warns(DeprecationWarning, match=f"{old} is deprecated, use {new}"):
            value = getattr(thing, old)
        assert value is not None and value is getattr(thing, new)


def test_weights_of_earlier_versions_are_read() -> None:
    def context() -> nn.Module:
        return nn.Sequential(DualStreamContext(4, 3, semantic=False, fuse=False))

    written, read = context(), context()
    written[0].lda.add(torch.eye(128)[:6], torch.arange(6) % 3)
    state = {name.replace(".lda.", ".discriminant."): v for name, v in written.state_dict().items()}
    assert "0.discriminant.squares" in state
    read.load_state_dict(state)
    assert read[0].lda.fitted
    torch.testing.assert_close(read[0].lda.squares, written[0].lda.squares)
    with pytest.raises(RuntimeError, match="Missing key"):
        read.load_state_dict({n: v for n, v in state.items() if "discriminant" not in n})


def test_the_old_option_of_create_model() -> None:
    with pytest.warns(DeprecationWarning, match="option 'likeness' of create_model is deprecated"):
        model = create_model("cam", TinyBackbone(), 2, likeness=0.25)
    assert model.class_similarity == 0.25
