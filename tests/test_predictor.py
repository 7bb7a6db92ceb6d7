from __future__ import annotations

import json
import math
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from dscnet import predictor as module
from dscnet.build import build_segmenter
from dscnet.config import Config, ModelConfig, SegmentConfig
from dscnet.data import open_photos, read_image
from dscnet.data.scale import PhotoScale
from dscnet.files.label_images import read_labels, write_label
from dscnet.models.checkpoint import restore, store
from dscnet.predictor import TEST_CRF, Predictor, refuse_failures
from dscnet.refine.crf import dense_crf
from dscnet.run_folder import RunFolder, write_text
from dscnet.types import DscnetError, ModelOutput

HALF = (0.5, 0.5, 0.5)


class Brightness(nn.Module):
    """Label 1 where the photo is bright, with a bias that a mirror image turns around."""

    def __init__(self, bias: float = 0.0) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(bias))

    def forward(self, image, tags=None):
        columns = torch.linspace(-1, 1, image.shape[-1]) * self.bias
        score = image.mean(1) + columns
        return ModelOutput(seg_logits=torch.stack([-score, score], 1))


def photo() -> torch.Tensor:
    image = torch.zeros(3, 4, 6, dtype=torch.uint8)
    image[:, :2] = 255
    return image


def test_labels_of_a_photo():
    labels = Predictor(Brightness(), ("bright",), mean=HALF, std=HALF, flip=False)(photo())
    assert labels.tolist() == [[1] * 6] * 2 + [[0] * 6] * 2


def test_flip_averages_the_two_directions():
    one = Predictor(Brightness(3.0), ("bright",), mean=HALF, std=HALF, flip=False)(photo())
    assert one[0, 0] == 0, "the bias alone decides at the border"
    both = Predictor(Brightness(3.0), ("bright",), mean=HALF, std=HALF, flip=True)(photo())
    assert both.tolist() == both[:, ::-1].tolist()


def resized(plane: list[list[float]], height: int, width: int) -> list[list[float]]:
    """Bilinear without aligned corners, pixel by pixel."""
    rows, columns = len(plane), len(plane[0])

    def corners(index: int, new: int, old: int) -> tuple[int, int, float]:
        place = max(0.0, (index + 0.5) * old / new - 0.5)
        low = int(place)
        return low, min(low + 1, old - 1), place - low

    result = []
    for i in range(height):
        top, bottom, down = corners(i, height, rows)
        line = []
        for j in range(width):
            left, right, across = corners(j, width, columns)
            above = plane[top][left] * (1 - across) + plane[top][right] * across
            below = plane[bottom][left] * (1 - across) + plane[bottom][right] * across
            line.append(above * (1 - down) + below * down)
        result.append(line)
    return result


@pytest.mark.parametrize("flip", [False, True])
def test_scores_are_averaged_over_sizes_and_mirror_images_before_the_softmax(flip, generator):
    bias, scales = 3.0, (0.5, 1.0, 1.7)
    image = torch.randint(0, 256, (3, 4, 6), generator=generator, dtype=torch.uint8)
    grey = ((image.double() / 255 - 0.5) / 0.5).mean(0).tolist()
    total = [[0.0] * 6 for _ in range(4)]
    for scale in scales:
        height, width = round(4 * scale), round(6 * scale)
        view = resized(grey, height, width)
        for mirrored in (False, True) if flip else (False,):
            seen = [line[::-1] if mirrored else line for line in view]
            score = [
                [value + bias * (2 * j / (width - 1) - 1) for j, value in enumerate(line)]
                for line in seen
            ]
            back = resized([line[::-1] if mirrored else line for line in score], 4, 6)
            for i in range(4):
                for j in range(6):
                    total[i][j] += back[i][j] / (len(scales) * (2 if flip else 1))
    expected = [[1 / (1 + math.exp(-2 * value)) for value in line] for line in total]
    net = Predictor(Brightness(bias), ("bright",), mean=HALF, std=HALF, scales=scales, flip=flip)
    got = net.probabilities(image)
    assert (got.shape, got.dtype) == ((2, 4, 6), torch.float32)
    torch.testing.assert_close(got[1], torch.tensor(expected), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got.sum(0), torch.ones(4, 6))
    assert net(image).tolist() == [[int(value > 0.5) for value in line] for line in expected]


def test_a_photo_smaller_than_a_scaled_pixel():
    net = Predictor(Brightness(), ("bright",), mean=HALF, std=HALF, scales=(0.1, 1.0))
    assert net(torch.full((3, 3, 1), 255, dtype=torch.uint8)).tolist() == [[1]] * 3


class Sizes(Brightness):
    """Notes the sizes that it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, int]] = []

    def forward(self, image, tags=None):
        self.seen.append(tuple(image.shape[-2:]))
        return super().forward(image, tags)


@pytest.mark.parametrize("times", [0.5, 1, 3, 8])
def test_a_photo_of_any_resolution_is_seen_as_large_as_in_training(times, tmp_path):
    own = (round(20 * times), round(30 * times))
    image = torch.zeros(3, *own, dtype=torch.uint8)
    image[:, :, own[1] // 2 :] = 255
    network = Sizes()
    net = Predictor(
        network, ("bright",), mean=HALF, std=HALF, scale=PhotoScale(30), scales=(1.0, 1.5)
    )
    labels = net(image)
    assert set(network.seen) == {(20, 30), (30, 45)}
    assert labels.shape == own, "labels are those of the photo's own pixels"
    assert (labels == (np.arange(own[1]) >= own[1] // 2)).mean() > 0.97
    assert net.work_probabilities(image, own).shape == (2, 20, 30)
    assert net.read_side == 45
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "p.png")
    assert net.write(open_photos(tmp_path), tmp_path / "masks") == []
    assert (read_labels(tmp_path / "masks" / "p.png") == labels).mean() > 0.97


def test_tiles_are_seen_one_by_one_and_each_pixel_is_labelled(generator):
    network = Sizes()
    net = Predictor(network, ("bright",), mean=HALF, std=HALF, flip=False, scale=PhotoScale(30))
    tiled = Predictor(
        network, ("bright",), mean=HALF, std=HALF, flip=False, scale=PhotoScale(30, tiles=2)
    )
    image = torch.randint(0, 2, (1, 4, 6), generator=generator, dtype=torch.uint8) * 255
    image = image.repeat_interleave(20, 1).repeat_interleave(20, 2).expand(3, -1, -1)
    labels = tiled(image)
    assert set(network.seen) == {(30, 30)} and len(network.seen) == 6
    # This network sees each pixel by itself, so that tiles alone make no difference.
    assert (labels == net(image)).mean() > 0.95
    assert (labels == image[0].numpy() // 255).mean() > 0.95


@pytest.mark.parametrize("scales", [(), (1.0, 0.0), (-1.0,)])
def test_sizes_that_no_photo_has_are_refused(scales):
    with pytest.raises(ValueError, match="scales must be one or more positive numbers"):
        Predictor(Brightness(), ("bright",), mean=HALF, std=HALF, scales=scales)


def test_the_crf_gets_the_softmax_and_the_photo(monkeypatch):
    calls = []

    def swap(probabilities, photos, **constants):
        calls.append((probabilities, photos, constants))
        return probabilities.flip(1)

    monkeypatch.setattr(module, "dense_crf", swap)
    plain = Predictor(Brightness(1.0), ("bright",), mean=HALF, std=HALF)
    fitted = Predictor(Brightness(1.0), ("bright",), mean=HALF, std=HALF, crf=True)
    expected = plain.probabilities(photo())
    assert calls == []
    assert torch.equal(fitted.probabilities(photo()), expected.flip(0))
    ((probabilities, photos, constants),) = calls
    assert torch.equal(probabilities[0], expected)
    assert torch.equal(photos, photo()[None])
    assert constants == {
        "iterations": 10,
        "gaussian_std": 4,
        "gaussian_weight": 3,
        "bilateral_std": 83,
        "color_std": 5,
        "bilateral_weight": 3,
        "negligible": 0.05,
    }
    assert fitted(photo()).tolist() == expected.flip(0).argmax(0).tolist()


def test_the_crf_itself_runs_at_inference():
    plain = Predictor(Brightness(1.0), ("bright",), mean=HALF, std=HALF)
    fitted = Predictor(Brightness(1.0), ("bright",), mean=HALF, std=HALF, crf=True)
    expected = dense_crf(plain.probabilities(photo())[None], photo()[None], **TEST_CRF)[0]
    torch.testing.assert_close(fitted.probabilities(photo()), expected)


@pytest.mark.parametrize("network", ["deeplabv1", "deeplabv2", "deeplabv3plus"])
def test_a_network_of_a_run_folder_is_restored_with_its_settings(tmp_path, network, generator):
    config = Config(
        model=ModelConfig(weights="none"),
        segment=SegmentConfig(
            network=network,
            backbone="test_resnet",
            output_stride=8,
            decoder_channels=8,
            test_scales=[0.5, 1.0],
            flip_test=False,
            crf=True,
            accelerator="cpu",
        ),
    )
    folder = RunFolder(tmp_path)
    folder.write_config(config)
    torch.manual_seed(0)
    model = build_segmenter(config, 3)
    store(model, folder.segmenter_weights)
    card = {"classes": ["cat", "dog"], "mean": model.mean, "std": model.std}
    write_text(folder.segmenter_card, json.dumps(card))
    write_text(folder.model_card, json.dumps(card | {"mean": [0, 0, 0]}))
    got = Predictor.from_run(tmp_path)
    assert (got.scales, got.flip, got.crf) == ((0.5, 1.0), False, True)
    assert (got.mean, got.classes) == (model.mean, ("cat", "dog"))
    image = torch.randn(1, 3, 20, 33, generator=generator)
    with torch.inference_mode():
        scores = model.eval()(image).seg_logits
        assert torch.equal(got.model(image).seg_logits, scores)
        # Convolution and batch normalisation are one operation in inference.
        torch.testing.assert_close(got._scores(image), scores, atol=1e-5, rtol=1e-5)
    folder.segmenter_card.unlink()
    assert Predictor.from_run(tmp_path).mean == (0, 0, 0), "earlier runs have one card"


def test_store_and_restore(tmp_path):
    one, two = Brightness(1.5), Brightness()
    store(one, tmp_path / "folder" / "weights.safetensors")
    restore(two, tmp_path / "folder" / "weights.safetensors")
    assert two.bias.item() == 1.5
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["weights.safetensors"]


def test_weights_of_another_network_are_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    store(Brightness(), path)
    with pytest.raises(DscnetError, match="does not match this network"):
        restore(nn.Linear(2, 2), path)
    path.write_bytes(b"nothing")
    with pytest.raises(DscnetError, match="weights.safetensors"):
        restore(Brightness(), path)


@pytest.fixture
def run_of_brightness(monkeypatch):
    """A stand-in for a run folder's network."""
    net = Predictor(Brightness(), ("bright",), mean=HALF, std=HALF)
    monkeypatch.setattr(Predictor, "from_run", lambda root: net)


@pytest.mark.parametrize("part", ["images", "JPEGImages", "tags.csv", "tags.jsonl"])
def test_masks_of_a_data_set_are_not_replaced(tmp_path, part, run_of_brightness):
    (tmp_path / "set" / part).mkdir(parents=True)
    Image.new("RGB", (4, 3)).save(tmp_path / "a.jpg")
    with pytest.raises(DscnetError, match=f"found a data set \\({part}\\)"):
        module.predict(tmp_path / "a.jpg", "run", tmp_path / "set")
    assert [path.name for path in (tmp_path / "set").iterdir()] == [part]


def test_masks_that_are_no_predictions_are_not_replaced(tmp_path, run_of_brightness):
    """Class folders or a YAML file beside them, or a run: nothing else tells whose they are."""
    Image.new("RGB", (4, 3)).save(tmp_path / "a.jpg")
    true = tmp_path / "set" / "masks" / "a.png"
    write_label(true, np.ones((3, 4), np.uint8))
    for classes in (None, "bright\n"):
        if classes:
            (tmp_path / "set" / "classes.txt").write_text(classes)
        with pytest.raises(DscnetError, match="masks: expected no masks, or those of an earlier"):
            module.predict(tmp_path / "a.jpg", "run", tmp_path / "set")
        assert read_labels(true).min() == 1
    assert not (tmp_path / "set" / "overlays").exists()


def test_predictions_that_were_cut_off_can_be_made_again(tmp_path, run_of_brightness, monkeypatch):
    Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
    with monkeypatch.context() as cut:
        cut.setattr(module, "_write_overlay", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            module.predict(tmp_path, "run", tmp_path / "out")
    assert (tmp_path / "out" / "masks" / "a.png").exists()
    assert module.predict(tmp_path, "run", tmp_path / "out") == []


def test_what_is_no_photo_is_told(tmp_path, run_of_brightness, caplog):
    Image.new("RGB", (4, 3)).save(tmp_path / "a.jpg")
    Image.new("P", (4, 3)).save(tmp_path / "b.gif")
    assert module.predict(tmp_path, "run", tmp_path / "out") == []
    assert "are ignored (.gif): b.gif" in caplog.text


def test_the_crf_can_be_turned_on_and_off_per_call(tmp_path, run_of_brightness, monkeypatch):
    Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
    calls = []
    monkeypatch.setattr(module, "dense_crf", lambda p, photos, **_: calls.append(1) or p)
    for crf, expected in ((None, 0), (True, 1), (None, 2), (False, 2)):
        assert module.predict(tmp_path / "a.png", "run", tmp_path / "out", crf=crf) == []
        assert len(calls) == expected


def test_photos_may_be_named_by_patterns_and_lists(tmp_path, run_of_brightness, caplog):
    for name in ("a.png", "b.png", "c.jpg", "d.jpg"):
        Image.new("RGB", (4, 3)).save(tmp_path / name)
    (tmp_path / "list.txt").write_text(f"{tmp_path / 'c.jpg'}\n")
    with caplog.at_level("INFO", "dscnet"):
        failures = module.predict(
            tmp_path / "?.png", "run", tmp_path / "out", lists=[tmp_path / "list.txt"]
        )
    assert failures == []
    masks = sorted(path.name for path in (tmp_path / "out" / "masks").iterdir())
    assert masks == ["a.png", "b.png", "c.png"]
    assert "3 photos in" in caplog.text
    with pytest.raises(DscnetError, match="no photos are named"):
        module.predict([], "run", tmp_path / "out")


class Threads(Brightness):
    """Notes how many photos are seen at a time, and the threads of each."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.most, self.threads = 0, 0, set()
        self.lock = threading.Lock()

    def forward(self, image, tags=None):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
            self.threads.add(torch.get_num_threads())
        time.sleep(0.05)
        with self.lock:
            self.now -= 1
        return super().forward(image, tags)


@pytest.mark.parametrize(
    ("threads", "large", "at_a_time"), [(4, False, 4), (4, True, 1), (1, False, 1)]
)
def test_small_photos_are_processed_side_by_side(
    tmp_path, monkeypatch, threads, large, at_a_time, generator
):
    for index in range(8):
        pixels = torch.randint(0, 256, (5, 6, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(tmp_path / f"{index}.png")
    monkeypatch.setattr(module, "LARGE", 20 if large else 2**20)
    before, network = torch.get_num_threads(), Threads()
    net, done = Predictor(network, ("bright",), mean=HALF, std=HALF), []
    try:
        torch.set_num_threads(threads)
        failures = net.write(open_photos(tmp_path), tmp_path / "m", done=lambda: done.append(1))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert (failures, len(done)) == ([], 8)
    assert (network.most > 1, network.threads) == (at_a_time > 1, {1})
    for index in range(8):
        alone = net(read_image(tmp_path / f"{index}.png"))
        assert (read_labels(tmp_path / "m" / f"{index}.png") == alone).all()


def test_large_photos_and_their_mirror_images_are_seen_one_by_one(monkeypatch):
    net = Predictor(Brightness(2.0), ("bright",), mean=HALF, std=HALF)
    together = net.probabilities(photo())
    sizes = []
    monkeypatch.setattr(module, "LARGE", 23)
    monkeypatch.setattr(net.model, "forward", _noting(net.model.forward, sizes))
    torch.testing.assert_close(net.probabilities(photo()), together)
    assert sizes == [1, 1]
    monkeypatch.setattr(module, "LARGE", 24)
    net.probabilities(photo())
    assert sizes == [1, 1, 2]


def _noting(forward, sizes):
    def noted(image, tags=None):
        sizes.append(len(image))
        return forward(image, tags)

    return noted


def test_photos_are_not_replaced_by_predictions(tmp_path, run_of_brightness):
    for name in ("masks/a.png", "overlays/b.jpg"):
        photo_path = tmp_path / name
        photo_path.parent.mkdir()
        Image.new("RGB", (4, 3), "red").save(photo_path)
        before = photo_path.read_bytes()
        for given in (photo_path, photo_path.parent):
            with pytest.raises(DscnetError, match="found one of the photos"):
                module.predict(given, "run", tmp_path)
        assert photo_path.read_bytes() == before
    assert not (tmp_path / "classes.txt").exists()


def test_predictions_may_lie_among_the_photos_and_be_made_again(tmp_path, run_of_brightness):
    Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
    for _ in ("once", "and again"):
        assert module.predict(tmp_path, "run", tmp_path) == []
        assert [path.name for path in (tmp_path / "masks").iterdir()] == ["a.png"]
    assert (tmp_path / "classes.txt").read_text() == "background\nbright\n"


def test_an_array_is_no_photo():
    net = Predictor(Brightness(), ("bright",), mean=HALF, std=HALF)
    with pytest.raises(ValueError, match=r"as torch\.Tensor, got numpy\.ndarray"):
        net(photo().numpy())


def test_a_run_without_a_network_says_how_to_train_one(tmp_path):
    RunFolder(tmp_path).write_config(Config())
    with pytest.raises(DscnetError, match="dscnet segment"):
        Predictor.from_run(tmp_path)


def test_a_photo_that_fails_does_not_stop_the_others(tmp_path, run_of_brightness):
    photos = tmp_path / "photos"
    deep = photos / ("a" * 90) / ("b" * 90) / ("c" * 90)
    deep.mkdir(parents=True)
    for path in (deep / "p.png", photos / "zz.png"):
        Image.new("RGB", (4, 3)).save(path)
    (photos / "bad.png").write_bytes(b"no photo")
    (photos / "gone.png").symlink_to("nowhere.png")
    failures = module.predict(photos, "run", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out" / "masks").iterdir()] == ["zz.png"]
    first, second, third = failures
    assert "p.png: its output cannot be written (File name too long)" in first
    assert "bad.png: cannot be decoded" in second and "gone.png: no such file" in third
    with pytest.raises(DscnetError, match="some photos could not be predicted:"):
        refuse_failures(failures)
    refuse_failures([])
