from __future__ import annotations

from pathlib import Path

from dscnet.data import Sample
from dscnet.run_report import loss_curves, spread


def samples(count: int) -> tuple[Sample, ...]:
    return tuple(Sample(str(index), Path("x"), (), None, None) for index in range(count))


def test_samples_are_spread_over_the_set():
    assert [s.image_id for s in spread(samples(9), 3)] == ["0", "4", "8"]
    assert len(spread(samples(2), 12)) == 2
    assert spread(samples(0), 3) == []


def test_curves_of_a_log(tmp_path):
    log = tmp_path / "metrics.csv"
    log.write_text("step,epoch,lr,cls,pgcl\n0,0,0.1,0.5,\n1,0,0.1,0.25,4\n")
    assert loss_curves(log) == {"cls": [(0, 0.5), (1, 0.25)], "pgcl": [(1, 4)]}
    assert loss_curves(tmp_path / "absent.csv") == {}
