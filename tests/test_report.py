from __future__ import annotations

import json
from pathlib import Path

from dscnet.config import Config, LabelConfig
from dscnet.data import Sample
from dscnet.pipeline.report import _epoch_note, _threshold_note, loss_curves, spread
from dscnet.run_folder import RunFolder


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


def test_the_report_says_which_epoch_was_kept(tmp_path):
    folder = RunFolder(tmp_path)
    assert _epoch_note(folder) == []
    folder.checkpoints.mkdir()
    scores = {"collapsed": False, "map": 0.5}
    folder.tag_scores.write_text(json.dumps(scores))
    assert _epoch_note(folder) == []
    scores |= {
        "criterion": "tag mAP on the validation photos",
        "scores": [0.5, 0.4],
        "kept_epoch": 1,
    }
    folder.tag_scores.write_text(json.dumps(scores))
    assert _epoch_note(folder) == [
        "Kept the weights of epoch 1 of 2, chosen by tag mAP on the validation photos, without"
        " masks."
    ]


def test_the_report_notes_the_background_threshold_of_each_criterion(tmp_path):
    folder = RunFolder(tmp_path)
    assert _threshold_note(Config(), folder) == []
    record = {"otsu": 0.41, "class_otsu": 0.4, "agreement": 0.29, "scales": None, "used": 0.29}
    folder.threshold.parent.mkdir(parents=True, exist_ok=True)
    folder.threshold.write_text(json.dumps(record))
    assert _threshold_note(Config(), folder) == [
        "Background threshold 0.29 by criterion 'agreement', without masks; other criteria: otsu"
        " 0.41, class_otsu 0.4."
    ]
    folder.threshold.write_text(json.dumps({"agreement": 0.29, "used": 0.29}))
    assert _threshold_note(Config(), folder) == [
        "Background threshold 0.29 by criterion 'agreement', without masks."
    ]
    assert _threshold_note(Config(label=LabelConfig(bg_score=0.3)), folder) == []
