"""Reader of MXNet's ``.params`` files without MXNet, and the mapping to ResNet38's names."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from torch import Tensor

from dscnet.types import DscnetError

MAGIC = 0x112
"""Magic number of a list of arrays."""

VERSION_1, VERSION_2 = 0xF993FAC8, 0xF993FAC9
"""Version tags of an array; the oldest version has the number of dimensions instead."""

DTYPES = ("<f4", "<f8", "<f2", "u1", "<i4", "i1", "<i8")
"""NumPy dtype by MXNet's type number."""

_MOST_DIMENSIONS = 32


def read_mxnet_params(path: str | Path) -> dict[str, Tensor]:
    """Read the arrays of a ``.params`` file written by ``mxnet.nd.save``.

    Supports dense arrays of all three format versions; the stored device is ignored.

    Args:
        path: The file.

    Returns:
        Tensors by name, ``arg:`` and ``aux:`` included, on the CPU.

    Raises:
        DscnetError: If the file is missing, truncated, not in this format, or contains anything but
            named dense arrays of numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise DscnetError(f"{path}: no such weight file")
    with _Reader(path) as reader:
        magic = reader.number("<Q", "the magic number")
        if magic != MAGIC:
            raise reader.fault(
                "not an MXNet list of arrays", f"the magic number {MAGIC:#x}", f"{magic:#x}"
            )
        reader.number("<Q", "a reserved number")
        arrays = [_read_array(reader) for _ in range(reader.count("arrays"))]
        names = [_read_name(reader) for _ in range(reader.count("names"))]
        if len(set(names)) != len(arrays) or len(names) != len(arrays):
            raise reader.fault(
                "arrays without unique names",
                f"{len(arrays)} different names, one per array",
                f"{len(names)} names, {len(set(names))} different",
            )
    return dict(zip(names, arrays, strict=True))


class _Reader:
    """A file read sequentially that tracks the number of bytes left."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.left = path.stat().st_size

    def __enter__(self) -> _Reader:
        self.file = self.path.open("rb")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.file.close()

    def take(self, size: int, what: str) -> bytearray:
        """Read ``size`` bytes of ``what``."""
        if size > self.left:
            raise self.fault(
                "the file is truncated", f"{size} bytes of {what}", f"{self.left} bytes"
            )
        self.left -= size
        return bytearray(self.file.read(size))

    def number(self, form: str, what: str) -> int:
        """Read one number in a ``struct`` format."""
        value: int = struct.unpack(form, self.take(struct.calcsize(form), what))[0]
        return value

    def count(self, what: str) -> int:
        """Read a count of items that take at least four bytes each."""
        value = self.number("<Q", f"the number of {what}")
        if value > self.left // 4:
            raise self.fault("the file is truncated", f"{value} {what}", f"{self.left} bytes")
        return value

    def fault(self, what: str, expected: str, found: str) -> DscnetError:
        """An error with the file, what was expected and what was found."""
        return DscnetError(
            f"{self.path}: {what}: expected {expected}, found {found}; download the file again"
        )


def _read_array(reader: _Reader) -> Tensor:
    tag = reader.number("<I", "the tag of an array")
    if tag == VERSION_2:
        storage = reader.number("<i", "the storage type of an array")
        if storage != 0:
            raise reader.fault("a sparse array", "storage type 0 (dense)", str(storage))
    current = tag in (VERSION_1, VERSION_2)
    dimensions = reader.number("<I", "a number of dimensions") if current else tag
    if not 1 <= dimensions <= _MOST_DIMENSIONS:
        raise reader.fault(
            "not an array", f"1 to {_MOST_DIMENSIONS} dimensions", f"{dimensions:#x}"
        )
    shape = [reader.number("<q" if current else "<I", "a shape") for _ in range(dimensions)]
    if min(shape) < 0:
        raise reader.fault("not an array", "a shape of sizes >= 0", str(tuple(shape)))
    reader.take(8, "the device of an array")
    kind = reader.number("<i", "the type of an array")
    if not 0 <= kind < len(DTYPES):
        known = ", ".join(f"{i} ({np.dtype(name)})" for i, name in enumerate(DTYPES))
        raise reader.fault("an array of an unknown type", f"one of {known}", str(kind))
    dtype = np.dtype(DTYPES[kind])
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    values = np.frombuffer(reader.take(size, f"an array {tuple(shape)}"), dtype)
    return torch.from_numpy(values.astype(dtype.newbyteorder("="), copy=False).reshape(shape))


def _read_name(reader: _Reader) -> str:
    size = reader.number("<Q", "the length of a name")
    try:
        return reader.take(size, "a name").decode()
    except UnicodeDecodeError as error:
        raise reader.fault("not a name", "UTF-8 text", f"{error.object!r}") from error


_LEAVES = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_var": "running_var",
}


def resnet38_state(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the arrays of the public ImageNet file to ResNet38's names.

    The classifier (``linear1000``) is dropped; unknown names are kept, so that loading reports
    them.

    Args:
        arrays: From :func:`read_mxnet_params`.

    Returns:
        The same tensors under the published names.
    """
    renamed = {}
    for name, values in arrays.items():
        plain = name.removeprefix("arg:").removeprefix("aux:")
        if not plain.startswith("linear1000_"):
            renamed[resnet38_name(plain) or name] = values
    return renamed


def resnet38_name(name: str) -> str | None:
    """ResNet38's name for an MXNet name without ``arg:`` or ``aux:``; None if unknown.

    Example:
        >>> resnet38_name("res4b5_branch2a_weight"), resnet38_name("bn2a_branch2b1_gamma")
        ('b4_5.conv_branch2a.weight', 'b2.bn_branch2b1.weight')
        >>> resnet38_name("bn7_moving_var"), resnet38_name("conv1a_weight")
        ('bn7.running_var', 'conv1a.weight')
    """
    if name == "conv1a_weight":
        return "conv1a.weight"
    leaf = "|".join(_LEAVES)
    if found := re.fullmatch(rf"bn7_({leaf})", name):
        return f"bn7.{_LEAVES[found[1]]}"
    branch = "branch1|branch2a|branch2b1|branch2b2"
    if found := re.fullmatch(rf"res(\d)(a|b\d+)_({branch})_weight", name):
        return f"{_block(found[1], found[2])}.conv_{found[3]}.weight"
    if found := re.fullmatch(rf"bn(\d)(a|b\d+)_({branch})_({leaf})", name):
        return f"{_block(found[1], found[2])}.bn_{found[3]}.{_LEAVES[found[4]]}"
    return None


def _block(stage: str, unit: str) -> str:
    """The block of a stage: ``a`` is the first, ``b1`` the second."""
    return f"b{stage}" if unit == "a" else f"b{stage}_{unit[1:]}"
