"""types.py: the records that cross rooms."""

from __future__ import annotations

import pytest
import torch

from dscnet.types import (
    BACKGROUND,
    IGNORE_INDEX,
    Batch,
    DataError,
    DscnetError,
    LossTerms,
    ModelOutput,
    check_class_count,
)


def make_batch(mask: torch.Tensor | None = None) -> Batch:
    return Batch(image=torch.zeros(2, 3, 4, 5), tags=torch.ones(2, 3), ids=["a", "b"], mask=mask)


def test_label_constants_are_the_fields_conventions():
    assert (BACKGROUND, IGNORE_INDEX) == (0, 255)


def test_masks_have_room_for_254_classes():
    check_class_count(254, "pets")
    with pytest.raises(DataError, match="pets: 255 classes, but masks have room for 254 besides 0"):
        check_class_count(255, "pets")


def test_a_data_error_is_one_the_user_can_mend():
    assert issubclass(DataError, DscnetError)
    assert not issubclass(DscnetError, ValueError)


def test_batch_moves_every_tensor_and_keeps_the_original():
    batch = make_batch(mask=torch.zeros(2, 4, 5, dtype=torch.int64))
    moved = batch.to("meta")
    assert moved.image.is_meta and moved.tags.is_meta
    assert moved.mask is not None and moved.mask.is_meta
    assert moved.ids == ["a", "b"]
    assert not batch.image.is_meta and not batch.tags.is_meta
    assert batch.mask is not None and not batch.mask.is_meta


def test_batch_without_masks_moves_too():
    assert make_batch().to("meta").mask is None


def test_final_logits_prefer_those_of_dscl():
    from dscnet.context import ContextOutput, PixelGroups

    plain, refined = torch.zeros(1, 2, 1, 1), torch.ones(1, 2, 1, 1)
    context = ContextOutput(
        embeddings=torch.zeros(1, 1, 2),
        groups=PixelGroups(ids=torch.zeros(1, 1, dtype=torch.int64), num_groups=1),
        group_embeddings=torch.zeros(1, 1, 2),
        semantic_logits=None,
        cam_logits=None,
    )
    output = ModelOutput(cam_logits=plain, context=context)
    assert output.final_logits is plain
    context.cam_logits = refined
    assert output.final_logits is refined


def test_final_logits_without_context_are_the_plain_ones():
    plain = torch.zeros(1, 2, 1, 1)
    assert ModelOutput(cam_logits=plain).final_logits is plain


def test_a_model_without_maps_has_no_final_logits():
    with pytest.raises(ValueError, match="no class activation maps"):
        _ = ModelOutput(seg_logits=torch.zeros(1, 2, 1, 1)).final_logits


def test_absent_branches_are_none():
    assert all(value is None for value in vars(ModelOutput()).values())


def test_total_is_the_weighted_sum_with_weight_one_by_default():
    terms = {"cls": torch.tensor(2.0), "pgcl": torch.tensor(4.0), "sgcl": torch.tensor(10.0)}
    assert LossTerms(terms, {"pgcl": 0.5, "sgcl": 0.1}).total.item() == pytest.approx(2 + 2 + 1)


def test_total_carries_each_weight_as_gradient():
    cls = torch.tensor(2.0, requires_grad=True)
    pgcl = torch.tensor(4.0, requires_grad=True)
    LossTerms({"cls": cls, "pgcl": pgcl}, {"pgcl": 0.25}).total.backward()
    assert (cls.grad, pgcl.grad) == (torch.tensor(1.0), torch.tensor(0.25))


def test_a_weight_without_a_term_changes_nothing():
    assert LossTerms({"cls": torch.tensor(2.0)}, {"pgcl": 9.0}).total.item() == 2.0


def test_no_term_has_no_total():
    with pytest.raises(ValueError, match="no term"):
        _ = LossTerms({}).total
