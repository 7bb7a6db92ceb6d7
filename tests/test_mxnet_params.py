from __future__ import annotations

import csv
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dscnet.models.mxnet_params import read_mxnet_params, resnet38_state
from dscnet.types import DscnetError

REFERENCE = Path(__file__).resolve().parents[2] / "shared" / "reference"
NUMBERS = {
    torch.float32: 0,
    torch.float64: 1,
    torch.float16: 2,
    torch.uint8: 3,
    torch.int32: 4,
    torch.int8: 5,
    torch.int64: 6,
}


def array_bytes(
    values: Tensor, version: int = 2, *, kind: int | None = None, storage: int = 0
) -> bytes:
    sides = values.shape
    if version == 0:
        head = struct.pack(f"<I{len(sides)}I", len(sides), *sides)
    elif version == 1:
        head = struct.pack(f"<II{len(sides)}q", 0xF993FAC8, len(sides), *sides)
    else:
        head = struct.pack(f"<IiI{len(sides)}q", 0xF993FAC9, storage, len(sides), *sides)
    number = NUMBERS[values.dtype] if kind is None else kind
    return head + struct.pack("<iii", 1, 0, number) + values.contiguous().numpy().tobytes()


def list_bytes(arrays: list[bytes], names: list[str]) -> bytes:
    tail = b"".join(struct.pack("<Q", len(n.encode())) + n.encode() for n in names)
    head = struct.pack("<QQQ", 0x112, 0, len(arrays))
    return head + b"".join(arrays) + struct.pack("<Q", len(names)) + tail


def params_file(path: Path, state: Mapping[str, Tensor], version: int = 2) -> None:
    path.write_bytes(list_bytes([array_bytes(v, version) for v in state.values()], list(state)))


@pytest.mark.parametrize("version", [0, 1, 2])
@pytest.mark.parametrize("dtype", NUMBERS)
def test_written_arrays_come_back(tmp_path: Path, version: int, dtype: torch.dtype) -> None:
    state = {
        "arg:a_weight": torch.arange(24).view(2, 3, 4, 1).to(dtype),
        "aux:grün": torch.tensor([7]).to(dtype),
        "empty": torch.zeros(0, 3, dtype=dtype),
    }
    params_file(tmp_path / "a.params", state, version)
    read = read_mxnet_params(tmp_path / "a.params")
    assert list(read) == list(state)
    for name, values in read.items():
        assert values.dtype == dtype
        assert torch.equal(values, state[name])


def test_arrays_can_be_changed(tmp_path: Path) -> None:
    params_file(tmp_path / "a.params", {"a": torch.zeros(2)})
    values = read_mxnet_params(tmp_path / "a.params")["a"]
    assert values.add_(1).tolist() == [1, 1]


@pytest.mark.data
def test_a_file_of_mxnet_itself() -> None:
    arrays = read_mxnet_params(REFERENCE / "toy_v2.params")
    assert {name: tuple(values.shape) for name, values in arrays.items()} == {
        "arg:conv1a_weight": (4, 3, 3, 3),
        "arg:res2a_branch2a_weight": (6, 4, 3, 3),
        "arg:res2b1_branch2b1_weight": (6, 6, 3, 3),
        "arg:bn2a_branch2a_gamma": (4,),
        "arg:bn2a_branch2a_beta": (4,),
        "aux:bn2a_branch2a_moving_mean": (4,),
        "aux:bn2a_branch2a_moving_var": (4,),
        "arg:bn7_gamma": (5,),
        "aux:bn7_moving_var": (5,),
        "arg:linear1000_weight": (3, 5),
        "arg:linear1000_bias": (3,),
    }
    assert all(values.isfinite().all() and values.abs().max() < 10 for values in arrays.values())


@pytest.mark.data
def test_all_names_of_the_public_file() -> None:
    with (REFERENCE / "keys_mxnet_resnet38.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    arrays = {row["mxnet"]: torch.tensor(i) for i, row in enumerate(rows)}
    renamed = resnet38_state(arrays)
    assert len(rows) == len(renamed) == 191
    assert all(int(renamed[row["reference"]]) == i for i, row in enumerate(rows))


def test_the_classifier_goes_and_strangers_stay() -> None:
    zero = torch.zeros(1)
    arrays = {"arg:linear1000_weight": zero, "arg:res9_weight": zero, "arg:conv1a_weight": zero}
    assert list(resnet38_state(arrays)) == ["arg:res9_weight", "conv1a.weight"]


WHOLE = list_bytes([array_bytes(torch.ones(2, 3)), array_bytes(torch.ones(4))], ["a", "b"])


@pytest.mark.parametrize("length", range(len(WHOLE)))
def test_a_file_cut_off_anywhere_is_named(tmp_path: Path, length: int) -> None:
    path = tmp_path / "cut.params"
    path.write_bytes(WHOLE[:length])
    with pytest.raises(DscnetError, match=r"cut\.params: .*expected .*, found "):
        read_mxnet_params(path)


ONE = array_bytes(torch.ones(2))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"PK\x03\x04" + bytes(40),
            "not an MXNet list.*expected the magic number 0x112, found 0x4034b50",
        ),
        (
            list_bytes([array_bytes(torch.ones(2), storage=1)], ["a"]),
            r"sparse array: expected storage type 0 \(dense\), found 1",
        ),
        (
            list_bytes([array_bytes(torch.ones(2), kind=12)], ["a"]),
            r"unknown type: expected one of 0 \(float32\), .*, found 12",
        ),
        (
            list_bytes([struct.pack("<I", 0xF993FAD0) + ONE[4:]], ["a"]),
            "dimensions, found 0xf993fad0",
        ),
        (list_bytes([struct.pack("<Iq", 1, 0) + bytes(9)], ["a"]), "truncated: expected .*, found"),
        (list_bytes([struct.pack("<IiIq", 0xF993FAC9, 0, 1, -1) + bytes(12)], ["a"]), r"\(-1,\)"),
        (list_bytes([ONE, ONE], ["a"]), "expected 2 different names, one per array, found 1 names"),
        (list_bytes([ONE, ONE], ["a", "a"]), "found 2 names, 1 different"),
        (struct.pack("<QQQ", 0x112, 0, 2**60), f"expected {2**60} arrays, found 0 bytes"),
        (list_bytes([ONE], ["?"]).replace(b"?", b"\xff"), "not a name: expected UTF-8 text"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "other.params"
    path.write_bytes(content)
    with pytest.raises(DscnetError, match=message) as caught:
        read_mxnet_params(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DscnetError, match=r"none\.params: no such"):
        read_mxnet_params(tmp_path / "none.params")
