from __future__ import annotations

import pytest

from dscnet.tables.specs import table_spec, unknown_table


def test_the_grid_of_figure_6_is_every_pair_of_weights():
    spec = table_spec("figure6", (0.2, 0.6))
    found = {(s["method.pgcl_weight"], s["method.sgcl_weight"]) for s in spec.variants.values()}
    assert found == {(0.2, 0.2), (0.2, 0.6), (0.6, 0.2), (0.6, 0.6)}
    number = next(n for n in spec.numbers("seam") if n.variant == "M4-a0.2-b0.6")
    assert (number.row, number.column) == ("SEAM, alpha 0.2", "beta 0.6")


def test_the_contrasts_of_table_v_differ_in_the_contrast_alone():
    pixels, groups = (table_spec("V").variants[name] for name in ("M1-pixels", "M1"))
    assert {key for key in pixels if pixels[key] != groups[key]} == {"method.contrast"}


@pytest.mark.parametrize(
    ("name", "hint"), [("figure7", "figure"), ("iv", "IV"), ("fig6", "figure6")]
)
def test_an_unknown_table_names_the_nearest(name, hint):
    assert f"did you mean {hint}" in unknown_table(name)
    with pytest.raises(ValueError, match=f"no table {name}"):
        table_spec(name)
    assert "did you mean" not in unknown_table("everything")
