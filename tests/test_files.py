from __future__ import annotations

import pytest

from dscnet.files.atomic import read_json, whole_file
from dscnet.types import DataError


def test_the_file_appears_at_the_end(tmp_path):
    path = tmp_path / "new" / "folder" / "a.txt"
    with whole_file(path) as file:
        file.write(b"all")
        assert not path.exists()
    assert path.read_bytes() == b"all"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), whole_file(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("content", [None, b"{", b"\xff"])
def test_what_is_no_json_is_named_with_its_remedy(tmp_path, content):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.json: not readable JSON .*; write it again"):
        read_json(path, "write it again")
    path.write_text('{"a": [1]}')
    assert read_json(path, "") == {"a": [1]}
