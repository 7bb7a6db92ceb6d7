"""AuxSegNet's rounds, end to end on small generated scenes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from dscnet.build import build_eval_transform, build_model
from dscnet.cli import main
from dscnet.config import AuxSegConfig, Config
from dscnet.data import open_dataset, read_image, read_saliency
from dscnet.files.label_images import read_labels
from dscnet.labels.cam_files import read_cam, write_cam
from dscnet.labels.thresholds import suggested_score
from dscnet.models.checkpoint import restore
from dscnet.pipeline.maps import load_map, score_counts
from dscnet.pipeline.registry import find_stage
from dscnet.pipeline.resources import cam_bytes
from dscnet.pipeline.runner import open_run, run, run_single
from dscnet.pipeline.self_training import trusted_evidence, write_self_training_labels
from dscnet.predictor import Predictor
from dscnet.refine.saliency import fill_undecided, fit_to_photo, fuse_saliency
from dscnet.run_folder import RunFolder
from dscnet.types import DataError, DscnetError
from helpers import Stopped, class_maps, small_config, stopped_in_the_second_epoch, without

AUXSEGNET = {
    "model.name": "auxsegnet",
    "auxseg.rounds": 2,
    "auxseg.branch_channels": 16,
    "method.variant": "baseline",
    "train.lr": 0.002,
}


def settings(data: Path, changes: Mapping[str, object] | None = None) -> Config:
    """The smallest run of two rounds that still goes through everything."""
    return small_config(data, AUXSEGNET | dict(changes or {}))


@pytest.fixture(scope="module")
def finished(scenes, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    run(settings(scenes), out, progress=False)
    return out


def weights(folder: Path):
    return load_file(folder / "checkpoints" / "weights.safetensors")


def same_weights(one: Path, two: Path) -> bool:
    first, second = weights(one), weights(two)
    return first.keys() == second.keys() and all(
        torch.equal(v, second[k]) for k, v in first.items()
    )


def test_every_round_keeps_its_files(finished):
    for index in range(3):
        folder = finished / "rounds" / str(index)
        for kind, ending in (("cams", "npz"), ("labels", "png"), ("saliency", "png")):
            assert len(list((folder / kind).glob(f"*.{ending}"))) == 8, (index, kind)
        assert (folder / "metrics.csv").stat().st_size > 0
        assert len(list((folder / "masks").glob("*.png"))) == (0 if index == 0 else 3)
    assert same_weights(finished, finished / "rounds" / "2")
    assert not same_weights(finished, finished / "rounds" / "1")
    assert not (finished / "segmenter").exists(), "the branch is the segmentation network"
    assert not list(finished.rglob("*.tmp"))


def test_the_maps_of_all_rounds_take_what_was_foretold(finished, scenes):
    samples = open_dataset(scenes, "train").samples
    written = sum(file.stat().st_size for file in finished.rglob("*.npz"))
    # The files' headers are the rest.
    assert written == pytest.approx(cam_bytes(settings(scenes), samples), rel=0.1)


def test_losses_of_every_round_are_logged_under_their_names(finished):
    header = (finished / "rounds" / "1" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert header == ["step", "epoch", "lr", "cls", "seg", "sal", "total"]
    header = (finished / "rounds" / "0" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert header == ["step", "epoch", "lr", "cls", "total"]


def test_metrics_hold_every_round_and_the_supervision(finished):
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics["supervision"] == "tags + saliency"
    assert [row["round"] for row in metrics["rounds"]] == [0, 1, 2]
    for row in metrics["rounds"]:
        for name in ("cam", "pseudo_label", "segmenter"):
            assert (row[name] is None) == (name == "segmenter" and row["round"] == 0)
        assert 0 <= row["undecided"] <= 1
    assert metrics["rounds"][2]["segmenter"] == metrics["segmenter"]
    assert metrics["rounds"][2]["cam"] == metrics["cam"]
    page = (finished / "report.html").read_text()
    assert "Rounds of training" in page and "tags + saliency" in page


def test_labels_of_a_round_are_its_maps_and_saliency_fused(finished, scenes):
    for index in range(3):
        folder = finished / "rounds" / str(index)
        for sample in open_dataset(scenes, "train").samples:
            maps, classes = read_cam(folder / "cams" / f"{sample.image_id}.npz")
            saliency = read_saliency(folder / "saliency" / f"{sample.image_id}.png")[0].numpy()
            expected = fuse_saliency(maps["refined" if index else "cam"], classes, saliency)
            got = read_labels(folder / "labels" / f"{sample.image_id}.png")
            # The file has 8 bits; the labels were made before it was written.
            sure = np.abs(saliency - 0.06) > 1 / 255
            np.testing.assert_array_equal(got[sure], expected[sure])


def test_the_score_of_the_maps_can_be_read_off_those_of_each_round(finished, scenes, tmp_path):
    config = settings(scenes)
    config.auxseg = AuxSegConfig(rounds=1, branch_channels=16, cam_score="auto")
    config.auxseg.cams = str(finished / "rounds" / "0" / "cams")
    config.train.epochs = 1
    run(config, tmp_path / "run", stages=["train"], progress=False)
    photos, scores = open_dataset(scenes, "train"), []
    for cams, folder in (
        (finished / "rounds" / "0" / "cams", tmp_path / "run" / "rounds" / "0"),
        (tmp_path / "run" / "rounds" / "1" / "cams", tmp_path / "run" / "rounds" / "1"),
    ):
        scores.append(suggested_score(score_counts(photos, cams), "class_otsu"))
        for sample in photos.samples:
            maps, classes = load_map(cams, sample.image_id)
            saliency = read_saliency(folder / "saliency" / f"{sample.image_id}.png")[0].numpy()
            expected = fuse_saliency(maps, classes, saliency, cam_score=scores[-1])
            got = read_labels(folder / "labels" / f"{sample.image_id}.png")
            # The file has 8 bits; the labels were made before it was written.
            sure = np.abs(saliency - 0.06) > 1 / 255
            np.testing.assert_array_equal(got[sure], expected[sure])
    assert 0.2 not in scores and scores[0] != scores[1]


def test_undecided_pixels_of_every_round_can_be_filled(finished, scenes, tmp_path):
    config = settings(scenes)
    config.auxseg = replace(config.auxseg, rounds=1, fill_undecided=True)
    config.auxseg.cams = str(finished / "rounds" / "0" / "cams")
    config.train.epochs = 1
    out = tmp_path / "run"
    run(config, out, stages=["train"], progress=False)
    undecided = 0
    for sample in open_dataset(scenes, "train").samples:
        photo, name = read_image(sample.image_path), f"{sample.image_id}.png"
        before = read_labels(finished / "rounds" / "0" / "labels" / name)
        undecided += (before == 255).sum()
        filled = fill_undecided(before, np.array(sample.tags), photo)
        np.testing.assert_array_equal(read_labels(out / "rounds" / "0" / "labels" / name), filled)
        later = set(np.unique(read_labels(out / "rounds" / "1" / "labels" / name)))
        assert 255 not in later or not {tag + 1 for tag in sample.tags} <= later
    assert undecided


def test_the_branches_so_far_can_label_for_the_next_round(finished, scenes, tmp_path):
    config = settings(scenes)
    config.auxseg = replace(config.auxseg, rounds=2, self_training_source="branch")
    config.auxseg.cams = str(finished / "rounds" / "0" / "cams")
    config.train.epochs = 1
    folder = RunFolder(tmp_path / "run")
    run(config, folder.root, stages=["train"], progress=False)
    job = open_run(config, folder, progress=False)
    segment = replace(config.segment, network="branch", crf=False)
    branches = [
        Predictor.from_weights(replace(config, segment=segment), each.weights, each.read_card())
        for each in map(folder.round, (1, 2))
    ]
    maps_alone = replace(
        config, auxseg=replace(config.auxseg, rounds=1, self_training_source="cam")
    )
    run(maps_alone, tmp_path / "maps", stages=["train"], progress=False)
    for path in RunFolder(tmp_path / "maps").round(1).labels.glob("*.png"):
        of_maps = read_labels(folder.round(1).unrefined / path.name)
        np.testing.assert_array_equal(read_labels(path), of_maps)
    write_self_training_labels(
        job, branches[:1], trusted_evidence(job, folder.round(0).labels), tmp_path / "first"
    )
    assert any(
        (read_labels(path) != read_labels(folder.round(1).labels / path.name)).any()
        for path in (tmp_path / "first").glob("*.png")
    ), "the first labels have no say in it"
    for count in (1, 2):
        evidence = trusted_evidence(job, folder.round(count).unrefined)
        write_self_training_labels(job, branches[:count], evidence, tmp_path / str(count))
        for path in sorted((tmp_path / str(count)).glob("*.png")):
            written = read_labels(folder.round(count).labels / path.name)
            np.testing.assert_array_equal(written, read_labels(path))
    before = folder.fingerprint_of("train")
    run(
        replace(config, segment=segment), folder.root, stages=["train"], resume=True, progress=False
    )
    assert folder.fingerprint_of("train") == before, "how the branch is tested at last is not asked"
    segment = replace(segment, flip_test=True)
    changed = replace(job, config=replace(config, segment=segment))
    assert find_stage("train").fingerprint(changed) != before


def test_saliency_begins_with_the_given_maps_and_stays_a_probability(finished, scenes):
    for path in sorted((finished / "rounds" / "0" / "saliency").glob("*.png")):
        given = read_saliency(scenes / "saliency" / path.name)
        np.testing.assert_array_equal(read_saliency(path), given)
        for index in (1, 2):
            later = read_saliency(finished / "rounds" / str(index) / "saliency" / path.name)
            assert len(later.unique()) > 10


def test_saliency_labels_average_with_the_first_maps(finished, scenes):
    for index in (1, 2):
        folder = finished / "rounds" / str(index)
        model = build_model(settings(scenes), 6, pretrained=False).eval()
        restore(model, folder / "checkpoints" / "weights.safetensors")
        transform = build_eval_transform(model.backbone.mean, model.backbone.std)
        for sample in open_dataset(scenes, "train").samples[:4]:
            photo = transform(read_image(sample.image_path), None)[0][None]
            with torch.inference_mode():
                _, predicted = model.dense_scores(photo)
            mean = (predicted[0] + read_saliency(sample.saliency_path))[0] / 2
            pixels = read_image(sample.image_path).permute(1, 2, 0).numpy()
            expected = torch.from_numpy(fit_to_photo(mean.numpy(), pixels))
            got = read_saliency(folder / "saliency" / f"{sample.image_id}.png")
            assert ((got - expected).abs() < 1 / 255).float().mean() > 0.999


def test_a_round_begins_with_the_network_of_the_one_before(scenes, finished, tmp_path):
    """Nothing is learned at rate 0: two rounds end with one network, whatever their seeds."""
    config = settings(scenes)
    config.train.lr, config.train.epochs = 0.0, 1
    config.auxseg.cams = str(finished / "rounds" / "0" / "cams")
    run(config, tmp_path / "run", stages=["train"], progress=False)
    rounds = tmp_path / "run" / "rounds"
    assert same_weights(rounds / "1", rounds / "2")
    torch.manual_seed(0)
    drawn = build_model(settings(scenes), 6).state_dict()
    assert not all(torch.equal(v, drawn[k]) for k, v in weights(rounds / "1").items())


def test_the_last_rounds_maps_are_the_runs_unless_other_maps_are_asked_for(
    finished, scenes, tmp_path, monkeypatch
):
    import dscnet.pipeline.cam as stage

    class MadeAnew(Exception):
        pass

    def refuse(*arguments):
        raise MadeAnew

    monkeypatch.setattr(stage, "write_cams", refuse)
    config, out = settings(scenes), tmp_path / "run"
    config.auxseg.rounds, config.train.epochs = 1, 1
    config.auxseg.cams = str(finished / "rounds" / "0" / "cams")
    run(config, out, stages=["train", "cam"], progress=False)
    for path in (out / "rounds" / "1" / "cams").iterdir():
        assert (out / "cams" / path.name).read_bytes() == path.read_bytes()
    config.cam.flip = True
    with pytest.raises(MadeAnew):
        run(config, out, stages=["cam"], resume=True, progress=False)


def test_more_rounds_go_on_from_those_that_are_there(finished, scenes, tmp_path):
    out = tmp_path / "more"
    shutil.copytree(finished, out)
    before = weights_changed(out)
    config = settings(scenes)
    config.auxseg.rounds = 3
    run(config, out, resume=True, stages=["train"], progress=False)
    assert weights_changed(out)[:3] == before
    assert same_weights(out, out / "rounds" / "3")
    assert not same_weights(out, finished)


def test_new_inference_settings_rewrite_the_masks_of_all_rounds(finished, scenes, tmp_path):
    out = Path(shutil.copytree(finished, tmp_path / "tested"))
    # The networks of two short trainings may agree on every mask: one is turned round.
    weights = out / "rounds" / "1" / "checkpoints" / "weights.safetensors"
    state = load_file(weights)
    state["segmentation.classifier.weight"] *= -1
    save_file(state, weights)
    before = weights_changed(out)
    config = settings(scenes)
    config.segment.test_scales = [0.5, 1.5]
    config.segment.branch_scores = "averaged"
    run(config, out, resume=True, stages=["train", "segment"], progress=False)
    assert weights_changed(out) == before
    assert [Predictor.from_run(one).model.averaged for one in (finished, out)] == [False, True]
    sample = open_dataset(scenes, "val").samples[0]
    mask = Path("masks") / f"{sample.image_id}.png"
    expected = Predictor.from_run(out)(read_image(sample.image_path))
    for folder in (out, out / "rounds" / "2"):
        np.testing.assert_array_equal(read_labels(folder / mask), expected)
    first = out / "rounds" / "1" / mask
    assert first.stat().st_mtime_ns > (out / "config.yaml").stat().st_mtime_ns
    assert any(
        (read_labels(path) != read_labels(out / path.relative_to(out / "rounds" / "1"))).any()
        for path in (out / "rounds" / "1" / "masks").glob("*.png")
    ), "each round's are by its own network"


def weights_changed(out: Path) -> list[int]:
    paths = sorted((out / "rounds").glob("*/checkpoints/weights.safetensors"))
    return [path.stat().st_mtime_ns for path in paths]


def test_an_interrupted_round_goes_on_as_if_nothing_had_been(
    finished, scenes, tmp_path, monkeypatch
):
    """Once in the training of round 1, and once between its training and its labels."""
    import dscnet.pipeline.rounds as rounds

    refresh, calls = rounds._refresh_labels, []

    def stop_before_the_labels(*arguments):
        calls.append(arguments)
        raise Stopped

    config, out = settings(scenes), tmp_path / "broken"
    with stopped_in_the_second_epoch("rounds/1"):
        run(config, out, stages=["train"], progress=False)
    monkeypatch.setattr(rounds, "_refresh_labels", stop_before_the_labels)
    first = (out / "rounds" / "0" / "checkpoints" / "weights.safetensors").stat().st_mtime_ns
    with pytest.raises(Stopped):
        run(config, out, stages=["train"], resume=True, progress=False)
    monkeypatch.setattr(rounds, "_refresh_labels", refresh)
    second = (out / "rounds" / "1" / "checkpoints" / "weights.safetensors").stat().st_mtime_ns
    run(config, out, stages=["train"], resume=True, progress=False)
    assert len(calls) == 1
    for index, before in ((0, first), (1, second)):
        path = out / "rounds" / str(index) / "checkpoints" / "weights.safetensors"
        assert path.stat().st_mtime_ns == before, "a finished training does not run again"
    for index in range(3):
        one, two = (folder / "rounds" / str(index) for folder in (finished, out))
        assert same_weights(one, two)
        assert (one / "metrics.csv").read_text() == (two / "metrics.csv").read_text()
        for kind in ("labels", "saliency"):
            for path in (one / kind).iterdir():
                assert path.read_bytes() == (two / kind / path.name).read_bytes()


def test_an_unchanged_run_does_nothing_and_a_changed_setting_is_refused(
    finished, scenes, tmp_path, caplog
):
    copy = Path(shutil.copytree(finished, tmp_path / "copy"))
    config = settings(scenes)
    kept = copy / "rounds" / "1" / "checkpoints" / "weights.safetensors"
    before = kept.stat().st_mtime_ns
    # Rows at once change memory, not results.
    fewer = replace(config, auxseg=replace(config.auxseg, affinity_rows=7))
    run(fewer, copy, resume=True, progress=False)
    assert kept.stat().st_mtime_ns == before
    changed = replace(config, auxseg=replace(config.auxseg, rounds=1, cam_score=0.3))
    with pytest.raises(DscnetError, match=r"round 0 of Aux.*auxseg\.cam_score was 0\.2, is"):
        run(changed, copy, stages=["train"], resume=True, progress=False)
    assert kept.stat().st_mtime_ns == before
    assert (copy / "rounds" / "2").exists()


def test_the_last_network_is_not_overwritten_after_the_rounds_were_deleted(
    finished, scenes, tmp_path
):
    copy = Path(shutil.copytree(finished, tmp_path / "copy"))
    shutil.rmtree(copy / "rounds")
    RunFolder(copy).round(0).start("round", "of a restart that was stopped at once")
    kept = copy / "checkpoints" / "weights.safetensors"
    before = kept.stat().st_mtime_ns
    with pytest.raises(DscnetError, match=r"finished training of the CAM.*train\.lr was 0\.002"):
        run(settings(scenes, {"train.lr": 0.1}), copy, resume=True, progress=False)
    assert kept.stat().st_mtime_ns == before
    assert not run_single("train", settings(scenes), copy, resume=True, progress=False)


def test_prediction_needs_no_tags_and_no_segmenter(finished, scenes, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (50, 41), "red").save(photos / "a.png")
    shutil.copy(sorted((scenes / "JPEGImages").glob("*.jpg"))[-1], photos)
    out = tmp_path / "out"
    assert main(["predict", str(photos), "--model", str(finished), "--out", str(out)]) == 0
    with Image.open(out / "masks" / "a.png") as mask:
        assert mask.size == (50, 41)
    sample = open_dataset(scenes, "val").samples[0]
    labels = Predictor.from_run(finished)(read_image(sample.image_path))
    np.testing.assert_array_equal(
        labels, read_labels(finished / "masks" / f"{sample.image_id}.png")
    )


@pytest.mark.slow
def test_the_branch_is_exported(finished, tmp_path):
    out = tmp_path / "net.onnx"
    arguments = ["export", "--model", str(finished), "--out", str(out), "--size", "[64, 96]"]
    assert main(arguments) == 0
    assert out.stat().st_size > 0
    assert main([*arguments[:3], "--format", "safetensors", "--out", str(tmp_path / "st")]) == 0
    assert (tmp_path / "st" / "model.safetensors").exists()


def test_without_saliency_maps_tags_are_enough(scenes, tmp_path):
    bare = without(scenes, tmp_path / "bare", "saliency")
    config = settings(bare)
    with pytest.raises(DataError, match=r"scene_00001\.jpg: has no saliency map"):
        run(config, tmp_path / "refused", progress=False)
    assert not (tmp_path / "refused").exists()
    config.auxseg = AuxSegConfig(rounds=1, saliency="from_cam", branch_channels=16)
    config.train.epochs = 1
    metrics = run(config, tmp_path / "run", progress=False)
    assert metrics["supervision"] == "tags"
    assert metrics["segmenter"]["num_images"] == 3
    for path in (tmp_path / "run" / "rounds" / "0" / "cams").iterdir():
        maps, _ = read_cam(path)
        saliency = read_saliency(path.parents[1] / "saliency" / f"{path.stem}.png")[0].numpy()
        strongest = maps["cam"].max(0, initial=0)
        np.testing.assert_allclose(saliency, strongest, atol=0.5 / 255 + 1e-6)


@pytest.mark.parametrize("variant", ["M1", "M2", "M3", "M4"])
def test_every_variant_runs_and_shares_round_0(finished, scenes, tmp_path, variant):
    config = settings(scenes, {"method.variant": variant})
    config.auxseg.rounds = 1
    # Maps of the finished run's round 0: a variant's own would be the same.
    config.auxseg.cams = str(finished / "rounds" / "0" / "cams")
    config.train.epochs = 1
    metrics = run(config, tmp_path / "run", progress=False)
    assert metrics["segmenter"]["num_images"] == 3
    header = (tmp_path / "run" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert ("pgcl" in header, "sgcl" in header) == (variant != "M2", variant != "M1")
    for path in (finished / "rounds" / "0" / "labels").iterdir():
        again = tmp_path / "run" / "rounds" / "0" / "labels" / path.name
        assert path.read_bytes() == again.read_bytes()


@pytest.mark.parametrize("fault", ["16-bit", "colour", "size"])
def test_bad_saliency_maps_are_refused_by_name_before_training(scenes, tmp_path, fault):
    bad = tmp_path / "bad"
    shutil.copytree(scenes, bad)
    path = sorted((bad / "saliency").glob("*.png"))[0]
    size = (32, 64) if fault == "size" else (64, 64)
    Image.new({"16-bit": "I;16", "colour": "RGB"}.get(fault, "L"), size).save(path)
    with pytest.raises(DataError, match=str(path)):
        run(settings(bad), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_black_map_and_a_photo_without_any_object_are_handled(scenes, tmp_path):
    odd = tmp_path / "odd"
    shutil.copytree(scenes, odd)
    black, without = sorted((odd / "saliency").glob("*.png"))[:2]
    Image.new("L", (64, 64)).save(black)
    tags = odd / "ImageSets" / "tags.csv"
    lines = tags.read_text().splitlines()
    rows = [f"{without.stem}," if row.startswith(without.stem) else row for row in lines]
    tags.write_text("\n".join(rows) + "\n")
    config = settings(odd)
    config.auxseg.rounds, config.train.epochs = 1, 1
    run(config, tmp_path / "run", stages=["train"], progress=False)
    for index in range(2):
        labels = tmp_path / "run" / "rounds" / str(index) / "labels"
        assert not read_labels(labels / without.name).any()
    first = read_labels(tmp_path / "run" / "rounds" / "0" / "labels" / black.name)
    assert set(np.unique(first)) <= {0, 255}


def test_labels_can_be_cut_to_what_is_salient(finished, tmp_path, scenes):
    copy = Path(shutil.copytree(finished, tmp_path / "copy"))
    config = settings(scenes, {"label.bg_score": 0.1})
    run(config, copy, stages=["label"], resume=True, progress=False)
    whole = {path.name: read_labels(path) for path in (copy / "labels").iterdir()}
    config.label.salient_only = True
    run(config, copy, stages=["label"], resume=True, progress=False)
    cut = 0
    for name, labels in whole.items():
        salient = read_saliency(copy / "rounds" / "2" / "saliency" / name)[0].numpy() > 0.5
        np.testing.assert_array_equal(read_labels(copy / "labels" / name), labels * salient)
        cut += int((labels > 0)[~salient].sum())
    assert cut > 0


def test_labels_can_be_those_of_the_last_round(finished, tmp_path, scenes):
    copy = Path(shutil.copytree(finished, tmp_path / "copy"))
    config = settings(scenes)
    config.auxseg.last_round_labels = True
    run(config, copy, stages=["label"], resume=True, progress=False)
    expected = {path.name: path.read_bytes() for path in (copy / "rounds/2/labels").iterdir()}
    assert {path.name: path.read_bytes() for path in (copy / "labels").iterdir()} == expected
    config.auxseg.rounds = 1
    run(config, copy, stages=["label"], resume=True, progress=False)
    for path in (copy / "rounds/1/labels").iterdir():
        assert (copy / "labels" / path.name).read_bytes() == path.read_bytes()


def test_classes_that_hardly_stand_out_are_named_and_can_be_set_as_stuff(scenes, tmp_path, caplog):
    """The scenes' saliency maps with one class wiped out of them."""
    data, cams = without(scenes, tmp_path / "scenes"), tmp_path / "cams"
    classes = open_dataset(data, "train").classes
    for sample in open_dataset(data, "train").samples:
        maps, present = class_maps(read_labels(sample.mask_path))
        write_cam(cams / f"{sample.image_id}.npz", {"cam": maps}, present)
        if 0 in sample.tags:
            Image.new("L", (64, 64)).save(sample.saliency_path)
    config = settings(data)
    config.auxseg.rounds, config.train.epochs = 1, 1
    config.auxseg.cams = str(cams)
    run(config, tmp_path / "run", stages=["train"], progress=False)
    said = [r.getMessage() for r in caplog.records if "add it to auxseg.stuff" in r.getMessage()]
    assert any(text.startswith(f"{classes[0]}: only 0 % ") for text in said)
    assert not labelled(tmp_path / "run", 1)
    caplog.clear()
    config.auxseg.stuff = [classes[0], "sky"]
    run(config, tmp_path / "stuff", stages=["train"], progress=False)
    assert not any(r.getMessage().startswith(f"{classes[0]}: only") for r in caplog.records)
    assert "auxseg.stuff: the data set has no class sky" in caplog.text
    assert labelled(tmp_path / "stuff", 1)


def labelled(out: Path, label: int) -> int:
    """Pixels with a label in the first labels of a run."""
    paths = (out / "rounds" / "0" / "labels").iterdir()
    return sum(int((read_labels(path) == label).sum()) for path in paths)


def test_maps_of_another_shape_are_named(finished, scenes, tmp_path):
    cams = Path(shutil.copytree(finished / "rounds" / "0" / "cams", tmp_path / "cams"))
    maps, classes = read_cam(cams / "scene_00001.npz")
    write_cam(cams / "scene_00001.npz", {"cam": maps["cam"][:, :40]}, classes)
    config = settings(scenes)
    config.auxseg.cams = str(cams)
    with pytest.raises(DataError, match=r"'scene_00001' are \(40, 64\), its photo is \(64, 64\)"):
        run(config, tmp_path / "run", progress=False)


def test_maps_may_be_of_another_size(finished, scenes, tmp_path):
    """Those of a network that saw the same photos at another size."""
    config = settings(scenes)
    config.scale.side, config.train.epochs, config.auxseg.rounds = 80, 1, 1
    config.auxseg.cams = str(finished / "rounds" / "0" / "cams")
    run(config, tmp_path / "run", stages=["train", "cam", "label"], progress=False)
    folder = RunFolder(tmp_path / "run")
    for sample in open_dataset(scenes, "train").samples:
        assert read_cam(folder.cams / f"{sample.image_id}.npz")[0]["cam"].shape[1:] == (80, 80)
        for labels in (folder.labels, folder.round(0).labels, folder.round(1).labels):
            assert read_labels(labels / f"{sample.image_id}.png").shape == (64, 64)
        for number in (0, 1):
            saliency = folder.round(number).saliency / f"{sample.image_id}.png"
            assert read_saliency(saliency).shape == (1, 64, 64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.name": "seam", "segment.network": "branch"}, "segment.network: branch needs"),
        ({"model.name": "seam", "label.salient_only": True}, "label.salient_only needs"),
        (
            {"auxseg.last_round_labels": True, "refine.steps": ["crf"]},
            "of a round cannot be refined",
        ),
        ({"segment.network": "branch", "segment.supervision": "full"}, "is not trained further"),
        ({"auxseg.rounds": 0}, "auxseg.rounds must be at least 1, got 0"),
        ({"auxseg.cam_score": 1.5}, r"auxseg.cam_score must be in \[0, 1\], got 1.5"),
        ({"auxseg.dilations": [1, 2]}, r"auxseg.dilations must be three .*, got \[1, 2\]"),
        ({"auxseg.dilations": [1, 2, 0]}, "auxseg.dilations must be three numbers >= 1"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(scenes, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        run(settings(scenes, changes), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_maps_asked_for_later_are_missed_by_name(scenes, tmp_path):
    bare = without(scenes, tmp_path / "bare", "saliency")
    config = settings(bare)
    config.auxseg = AuxSegConfig(rounds=1, saliency="from_cam", branch_channels=16)
    config.train.epochs = 1
    run(config, tmp_path / "run", stages=["train"], progress=False)
    config.auxseg.saliency = "maps"
    with pytest.raises(DscnetError, match=r"auxseg\.saliency was from_cam, is now maps"):
        run(config, tmp_path / "run", stages=["train"], resume=True, progress=False)
    with pytest.raises(DataError, match=r"scene_00001\.jpg: has no saliency map"):
        run(config, tmp_path / "run", stages=["train"], force=True, progress=False)
