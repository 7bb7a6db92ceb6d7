from __future__ import annotations

import pytest

from dscnet.config import AffinityConfig, Config, MethodConfig, SegmentConfig, TrainConfig
from dscnet.config.settings import dotted_names, to_dict


@pytest.mark.parametrize(
    ("variant", "parts"),
    [
        ("baseline", (False, False, False)),
        ("M1", (True, False, False)),
        ("M2", (False, True, False)),
        ("M3", (True, True, False)),
        ("M4", (True, True, True)),
    ],
)
def test_variants_are_the_papers(variant, parts):
    method = MethodConfig(variant=variant)
    assert (method.pgcl, method.sgcl, method.dscl) == parts


def test_every_setting_has_a_help_text():
    from dataclasses import fields, is_dataclass

    def undocumented(cls):
        text = "".join(base.__doc__ or "" for base in cls.__mro__)
        for field in fields(cls):
            default = getattr(cls(), field.name)
            if is_dataclass(default):
                yield from undocumented(type(default))
            elif f"{field.name}:" not in text and f"``{field.name}``" not in text:
                yield f"{cls.__name__}.{field.name}"

    assert list(undocumented(Config)) == []
    assert "method.pgcl_weight" in dotted_names(to_dict(Config()))


@pytest.mark.parametrize(
    ("settings", "steps_a_pass", "steps"),
    [
        (TrainConfig(), 3, 350),  # few photos: more passes
        (TrainConfig(), 100, 800),  # 8 passes
        (TrainConfig(epochs=2), 3, 6),
        (TrainConfig(epochs=2, iterations=7), 3, 7),
        (SegmentConfig(), 2, 220),
        (SegmentConfig(), 100, 1000),
        (AffinityConfig(), 3, 24),
    ],
)
def test_steps_of_a_training(settings, steps_a_pass, steps):
    assert settings.steps(steps_a_pass) == steps
