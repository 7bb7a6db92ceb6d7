from __future__ import annotations

import gzip
import io
import os
import pickle
import tarfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from dscnet.data.io import image_size
from dscnet.files import archives
from dscnet.files.archives import is_file, members_of, modified_ns, open_file
from dscnet.files.marks import file_mark
from dscnet.types import DataError


def add(tar, name, content=b"", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    tar.addfile(info, io.BytesIO(content))


@pytest.fixture
def shard(tmp_path):
    path = tmp_path / "0.tar"
    with tarfile.open(path, "w") as tar:
        add(tar, "./a.txt", b"first", mtime=7)
        add(tar, "in", type=tarfile.DIRTYPE)
        add(tar, "in/b.txt", bytes(range(256)) * 40)
        add(tar, "c.txt", type=tarfile.LNKTYPE, linkname="./a.txt")
    return path


def test_members_are_read_in_place(shard):
    assert list(members_of(shard)) == ["a.txt", "in/b.txt", "c.txt"]
    raw = shard.read_bytes()
    for name, content in (("a.txt", b"first"), ("c.txt", b"first")):
        start, size, _ = members_of(shard)[name]
        assert raw[start : start + size] == content
        with open_file(shard / name) as file:
            assert file.read() == content
    assert modified_ns(shard / "a.txt") == 7_000_000_000


def test_a_member_is_a_file_of_its_own(shard):
    """Nothing before or after it can be read, wherever one seeks to."""
    content = bytes(range(256)) * 40
    with open_file(shard / "in/b.txt") as file:
        assert file.seek(-3, os.SEEK_END) == len(content) - 3 and file.read() == content[-3:]
        assert file.seek(5) == 5 and file.read(4) == content[5:9]
        assert file.seek(2, os.SEEK_CUR) == 11 and file.read(1) == content[11:12]
        assert file.seek(len(content) + 9) and file.read() == b""
        with pytest.raises(OSError):
            file.seek(-1)


def test_marks_of_members_are_those_of_files(shard, tmp_path):
    plain = tmp_path / "b.txt"
    plain.write_bytes(bytes(range(256)) * 40)
    assert file_mark(shard / "in/b.txt") == file_mark(plain)


def test_only_what_is_there_is_a_file(shard, tmp_path):
    assert is_file(shard / "a.txt") and is_file(shard)
    assert not is_file(shard / "z.txt") and not is_file(shard / "in")
    with pytest.raises(FileNotFoundError):
        open_file(shard / "z.txt")
    with pytest.raises(DataError, match=r"0\.tar/z\.jpg: no such file"):
        image_size(shard / "z.jpg")
    folder = tmp_path / "folder.tar"
    folder.mkdir()
    (folder / "a.txt").write_bytes(b"of a folder")
    with open_file(folder / "a.txt") as file:
        assert file.read() == b"of a folder"


def test_an_archive_is_scanned_once_and_again_if_it_changes(shard, monkeypatch):
    scans = []
    scan = archives._scan
    monkeypatch.setattr(archives, "_scan", lambda *a: scans.append(a) or scan(*a))
    members_of(shard)
    for _ in range(3):
        open_file(shard / "a.txt").close()
    assert len(scans) == 1
    with tarfile.open(shard, "w") as tar:
        add(tar, "longer name so that nothing is where it was", b"x" * 2000)
        add(tar, "a.txt", b"second")
    with open_file(shard / "a.txt") as file:
        assert file.read() == b"second"
    assert len(scans) == 2


def test_threads_read_the_same_archive(tmp_path):
    path, contents = tmp_path / "many.tar", [bytes([n]) * 20_000 for n in range(40)]
    with tarfile.open(path, "w") as tar:
        for number, content in enumerate(contents):
            add(tar, f"{number}.bin", content)

    def read(number):
        with open_file(path / f"{number}.bin") as file:
            return b"".join(iter(lambda: file.read(977), b""))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, list(range(40)) * 5)) == contents * 5


def test_places_survive_pickling(shard):
    with open_file(pickle.loads(pickle.dumps(shard / "a.txt"))) as file:
        assert file.read() == b"first"


def damaged(path, change):
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError) as caught:
        members_of(path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: b"", "not an intact tar archive (empty file)"),
        (lambda raw: b"\x89PNG" * 300, "not an intact tar archive"),
        (lambda raw: raw[:700], "unexpected end of data"),
        (lambda raw: raw[:1024], "its end is missing"),
        (lambda raw: raw[:5000], "unexpected end of data"),
        (lambda raw: raw[:1024] + b"\xff" * 512 + raw[1536:], "invalid header at byte 1024"),
        (lambda raw: raw + raw, "members follow its end"),
        (gzip.compress, "is compressed"),
    ],
)
def test_damaged_archives_are_refused(shard, change, said):
    message = damaged(shard, change)
    assert message.startswith(f"{shard}: ") and said in message


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([("a.jpg", {}), ("./a.jpg", {})], "contains a.jpg twice; remove one of them"),
        ([("../a.jpg", {})], "member ../a.jpg lies outside"),
        ([("a.jpg", {"type": tarfile.SYMTYPE, "linkname": "b.jpg"})], "a.jpg is a symbolic link"),
        ([("a.jpg", {"type": tarfile.LNKTYPE, "linkname": "b.jpg"})], "a.jpg is a link to b.jpg"),
    ],
)
def test_members_that_cannot_be_read_in_place_are_refused(tmp_path, members, said):
    path = tmp_path / "0.tar"
    with tarfile.open(path, "w") as tar:
        for name, fields in members:
            add(tar, name, **fields)
    with pytest.raises(DataError) as caught:
        members_of(path)
    assert said in str(caught.value) and str(caught.value).startswith(str(path))


def test_a_missing_archive_is_named(tmp_path):
    with pytest.raises(DataError, match=r"0\.tar: cannot be read \(No such file"):
        members_of(tmp_path / "0.tar")
