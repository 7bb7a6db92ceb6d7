from __future__ import annotations

import zipfile

import numpy as np
import pytest
import torch

from dscnet.labels.cam_files import coarse_maps, read_cam, read_scales, write_cam
from dscnet.types import DataError

GOOD = np.zeros((1, 2, 2), dtype=np.float16)


@pytest.mark.parametrize("size", [(1, 1), (4, 4), (5, 9)])
def test_coarse_maps_equal_loops(generator, size):
    maps = torch.rand(2, 3, *size, generator=generator, dtype=torch.float64)
    coarse = coarse_maps(maps)
    assert coarse.shape[2:] == tuple(-(-side // 4) for side in size)
    for b in range(2):
        for c in range(3):
            for y in range(coarse.shape[2]):
                for x in range(coarse.shape[3]):
                    cell = [
                        float(maps[b, c, i, j])
                        for i in range(4 * y, min(4 * y + 4, size[0]))
                        for j in range(4 * x, min(4 * x + 4, size[1]))
                    ]
                    assert coarse[b, c, y, x] == round(255 * sum(cell) / len(cell))


# ------------------------------------------------------------------------------------------- files


def test_maps_of_single_scales_come_back_and_are_no_maps(tmp_path):
    path = tmp_path / "a.npz"
    scales = np.random.default_rng(0).integers(0, 256, (3, 2, 1, 2), dtype=np.uint8)
    write_cam(path, {"cam": torch.zeros(2, 3, 5)}, [4, 1], scales=torch.from_numpy(scales))
    np.testing.assert_allclose(read_scales(path), scales / 255, atol=1e-7)
    assert read_cam(path)[0].keys() == {"cam"}
    write_cam(path, {"cam": torch.zeros(2, 3, 5)}, [4, 1])
    assert read_scales(path) is None


@pytest.mark.parametrize(
    "scales",
    [
        np.zeros((2, 3, 1, 1), dtype=np.uint8),
        np.zeros((2, 1, 1), dtype=np.uint8),
        np.zeros((2, 1, 1, 1)),
    ],
)
def test_wrong_maps_of_single_scales_are_refused(tmp_path, scales):
    path = tmp_path / "a.npz"
    with pytest.raises(ValueError, match=r"'scales' must be \(S, 1, h, w\) uint8"):
        write_cam(path, {"cam": torch.zeros(1, 3, 5)}, [4], scales=scales)
    assert not path.exists()
    np.savez(path, cam=GOOD, classes=np.array([4]), scales=scales)
    with pytest.raises(DataError, match=r"a\.npz: 'scales' must be"):
        read_scales(path)


def test_written_maps_come_back(tmp_path, generator):
    path = tmp_path / "folder" / "a.b.npz"
    maps = {"cam": torch.rand(2, 3, 4, generator=generator), "refined": np.ones((2, 3, 4))}
    write_cam(path, maps, [4, 1])
    read, classes = read_cam(path)
    assert classes.dtype == np.int64
    assert classes.tolist() == [4, 1]
    assert read["cam"].dtype == np.float32
    np.testing.assert_array_equal(read["cam"], maps["cam"].half().float().numpy())
    np.testing.assert_array_equal(read["refined"], maps["refined"])
    assert [p.name for p in path.parent.iterdir()] == ["a.b.npz"]
    with zipfile.ZipFile(path) as stored:
        assert sorted(stored.namelist()) == ["cam.npy", "classes.npy", "refined.npy"]


def test_a_photo_without_tags(tmp_path):
    write_cam(tmp_path / "a.npz", {"cam": torch.zeros(0, 3, 4)}, [])
    read, classes = read_cam(tmp_path / "a.npz")
    assert read["cam"].shape == (0, 3, 4)
    assert classes.shape == (0,)


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    write_cam(path, {"cam": torch.zeros(1, 2, 2)}, [0])

    def fail(file, **arrays):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="disk full"):
        write_cam(path, {"cam": torch.ones(1, 2, 2)}, [0])
    assert read_cam(path)[0]["cam"].max() == 0
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


@pytest.mark.parametrize(
    ("maps", "classes", "message"),
    [
        ({"cam": torch.zeros(2, 3, 4)}, [0], r"maps\['cam'\] must be \(1, H, W\)"),
        ({"cam": torch.zeros(3, 4)}, [0, 1, 2], r"maps\['cam'\] must be \(3, H, W\)"),
        ({"classes": torch.zeros(1, 3, 4)}, [0], "reserved name 'classes'"),
        ({"scales": torch.zeros(1, 3, 4)}, [0], "reserved name 'scales'"),
    ],
)
def test_maps_that_cannot_be_written(tmp_path, maps, classes, message):
    with pytest.raises(ValueError, match=message):
        write_cam(tmp_path / "a.npz", maps, classes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arrays", "fault"),
    [
        ({"cam": GOOD}, "no array 'classes'"),
        ({"classes": np.array([0])}, "it has no CAM"),
        ({"classes": np.array([[0]]), "cam": GOOD}, "not a list of integers"),
        ({"classes": np.array([0.0]), "cam": GOOD}, "not a list of integers"),
        ({"classes": np.array([-1]), "cam": GOOD}, "distinct indices >= 0"),
        ({"classes": np.array([3, 3]), "cam": np.zeros((2, 2, 2))}, "distinct indices"),
        ({"classes": np.array([0, 1]), "cam": GOOD}, r"map 'cam' is float16 \(1, 2, 2\)"),
        ({"classes": np.array([0]), "cam": GOOD.astype(int)}, "map 'cam' is int64"),
        ({"classes": np.array([0]), "cam": GOOD + 1.5}, r"outside \[0, 1\]"),
        ({"classes": np.array([0]), "cam": GOOD - 0.5}, r"outside \[0, 1\]"),
        ({"classes": np.array([0]), "cam": GOOD * np.nan}, r"outside \[0, 1\]"),
        ({"classes": np.array([0]), "a": GOOD, "b": np.zeros((1, 2, 3))}, "differ in size"),
        ({"classes": np.array([None]), "cam": GOOD}, "not a readable .npz"),
        (
            {"classes": np.arange(len(GOOD)), "cam": GOOD, "refined": np.concatenate([GOOD, GOOD])},
            "map 'refined' is .* floats",
        ),
    ],
)
def test_a_wrong_file_is_named(tmp_path, arrays, fault):
    path = tmp_path / "other.npz"
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=fault) as caught:
        read_cam(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no zip at all", b"\x93NUMPY"])
def test_a_damaged_file_is_named(tmp_path, content):
    path = tmp_path / "damaged.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match="not a readable"):
        read_cam(path)


def test_a_cut_file_is_named(tmp_path):
    path = tmp_path / "cut.npz"
    write_cam(path, {"cam": torch.zeros(1, 9, 9)}, [0])
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"cut\.npz"):
        read_cam(path)


def test_one_plain_array_is_named(tmp_path):
    path = tmp_path / "plain.npz"
    with path.open("wb") as file:
        np.save(file, GOOD)
    with pytest.raises(DataError, match="not a readable"):
        read_cam(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.npz: no such CAM file"):
        read_cam(tmp_path / "none.npz")
