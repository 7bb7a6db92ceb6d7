from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dscnet.prepare.download import (
    Archive,
    Incomplete,
    checked_line,
    fetch,
    provide,
    unpack,
    until_complete,
    where_to_get,
)
from dscnet.types import DataError, DscnetError

CONTENT = bytes(range(256)) * 40


class Server(ThreadingHTTPServer):
    """Serves one file; can break off, and can lack ranges."""

    content = CONTENT
    ends_after: int | None = None
    ranges = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        content, start = self.server.content, 0
        if self.path != "/file.tar":
            self.send_error(404)
            return
        if wanted and self.server.ranges:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : self.server.ends_after])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    made = Server()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def archive_of(server, content=CONTENT, path="file.tar"):
    url = f"http://127.0.0.1:{server.server_address[1]}/{path}"
    return Archive("file.tar", url, hashlib.md5(content).hexdigest())


def test_a_file_is_fetched_once(server, tmp_path):
    archive = archive_of(server)
    path = fetch(archive, tmp_path / "new")
    assert path == tmp_path / "new/file.tar" and path.read_bytes() == CONTENT
    assert fetch(archive, tmp_path / "new") == path
    assert server.asked == [None]
    assert [p.name for p in path.parent.iterdir()] == ["file.tar"]


def test_an_interrupted_download_goes_on(server, tmp_path):
    server.ends_after = 5000
    with pytest.raises(
        DscnetError, match=r"cannot be downloaded \(ended after 5000 of 10240 bytes\)"
    ):
        fetch(archive_of(server), tmp_path)
    assert not (tmp_path / "file.tar").exists()
    server.ends_after = None
    assert fetch(archive_of(server), tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=5000-"]


def test_a_server_without_ranges_sends_it_anew(server, tmp_path):
    server.ranges = False
    (tmp_path / "file.tar.part").write_bytes(b"something else")
    assert fetch(archive_of(server), tmp_path).read_bytes() == CONTENT


def test_a_part_that_is_all_of_it_is_taken(server, tmp_path):
    (tmp_path / "file.tar.part").write_bytes(CONTENT)
    assert fetch(archive_of(server), tmp_path).read_bytes() == CONTENT
    assert server.asked == [f"bytes={len(CONTENT)}-"]


def test_a_wrong_checksum_removes_what_was_fetched(server, tmp_path):
    with pytest.raises(DataError, match=r"expected the MD5 checksum .*, found "):
        fetch(archive_of(server, b"other"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_no_server_and_no_file_say_what_to_do(server, tmp_path):
    with pytest.raises(
        DscnetError, match=r"absent: cannot be downloaded .*404.*file\.tar yourself"
    ):
        fetch(archive_of(server, path="absent"), tmp_path)
    nobody = Archive("x.tar", "http://127.0.0.1:9/x.tar", "")
    with pytest.raises(DscnetError, match=r"127\.0\.0\.1:9/x\.tar: cannot be downloaded"):
        fetch(nobody, tmp_path)


def test_a_checksum_of_what_lies_there(tmp_path):
    archive = Archive("a.tar", "http://x/a.tar", hashlib.md5(b"a").hexdigest())
    assert checked_line(archive, tmp_path) == "a.tar: not found, checksum not verified"
    (tmp_path / "a.tar").write_bytes(b"a")
    assert checked_line(archive, tmp_path) == "a.tar: checksum as published"
    (tmp_path / "a.tar").write_bytes(b"b")
    with pytest.raises(DataError, match=r"a\.tar: expected the MD5"):
        checked_line(archive, tmp_path)


def pack_tar(path, files, mode="w"):
    with tarfile.open(path, mode) as archive:
        folder = tarfile.TarInfo("d")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def pack_zip(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("d/", "")
        for name, content in files.items():
            archive.writestr(name, content)
    return path


FILES = {"d/a.txt": b"one", "d/e/b.txt": b"two", "empty": b""}


@pytest.mark.parametrize("name", ["a.tar", "a.tgz", "a.zip"])
def test_unpacking_goes_on_where_it_stopped(tmp_path, name):
    if name == "a.zip":
        path = pack_zip(tmp_path / name, FILES)
    else:
        path = pack_tar(tmp_path / name, FILES, "w:gz" if name == "a.tgz" else "w")
    out = tmp_path / "out"
    (out / "d/e").mkdir(parents=True)
    (out / "d/a.txt").write_bytes(b"ONE")  # of the right size
    (out / "d/e/b.txt").write_bytes(b"t")  # half a file
    unpack(path, out)
    there = {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert there == FILES | {"d/a.txt": b"ONE"}


@pytest.mark.parametrize("name", ["../a", "/a", "d/../../a"])
@pytest.mark.parametrize("pack", [pack_tar, pack_zip])
def test_a_path_that_leads_out_is_refused(tmp_path, name, pack):
    path = pack(tmp_path / ("a.zip" if pack is pack_zip else "a.tar"), {name: b"x"})
    with pytest.raises(DataError, match="which is outside of"):
        unpack(path, tmp_path / "out")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("name", ["a.tar", "a.tgz", "a.zip"])
def test_damage_is_named(tmp_path, name):
    path = tmp_path / name
    if name == "a.tgz":
        pack_tar(path, {"a": bytes(range(256)) * 400}, "w:gz")
        path.write_bytes(path.read_bytes()[:200])
    else:
        path.write_bytes(b"no archive at all" * 100)
    with pytest.raises(DataError, match=rf"{name}: the archive is damaged"):
        unpack(path, tmp_path / "out")


@pytest.mark.parametrize("name", ["a.tar", "a.tgz"])
@pytest.mark.parametrize("cut", ["before the second header", "in the second header", "the end"])
def test_a_tar_that_is_cut_off_between_files_is_not_taken_for_whole(tmp_path, name, cut):
    pack_tar(tmp_path / "whole.tar", {"a": b"x" * 600, "b": b"y" * 600})
    second = 2 * 512 + 1024  # the folder, the header of a, its two blocks
    length = {"before the second header": second, "in the second header": second + 100}
    whole = (tmp_path / "whole.tar").read_bytes()
    part = whole[: length.get(cut, second + 512 + 1024)]
    path = tmp_path / name
    path.write_bytes(gzip.compress(part) if name == "a.tgz" else part)
    with pytest.raises(DataError, match=rf"{name}: the archive is damaged \(no end"):
        unpack(path, tmp_path / "out")
    path.write_bytes(gzip.compress(whole) if name == "a.tgz" else whole)
    unpack(path, tmp_path / "out")
    assert (tmp_path / "out/b").read_bytes() == b"y" * 600


@pytest.mark.parametrize("name", ["a.tar", "a.zip"])
def test_outer_folders_can_be_left_out(tmp_path, name):
    files = FILES | {"d/e/f/c.txt": b"three"}
    path = (pack_zip if name == "a.zip" else pack_tar)(tmp_path / name, files)
    unpack(path, tmp_path / "out", skip=2)
    there = [p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.txt")]
    assert sorted(there) == ["b.txt", "f/c.txt"]
    assert not (tmp_path / "out/empty").exists()


def test_where_to_get_an_archive_depends_on_whether_it_is_here(tmp_path):
    archive = Archive("a.tar", "http://x/a.tar", "")
    assert where_to_get(archive, tmp_path).startswith(
        "download and unpack a.tar from http://x/a.tar"
    )
    (tmp_path / "a.tar").write_bytes(b"")
    assert where_to_get(archive, tmp_path).startswith(f"{tmp_path / 'a.tar'} exists: unpack it")


def test_what_is_incomplete_is_provided_once(tmp_path):
    first, second = (Archive(name, f"http://x/{name}", "") for name in ("a.tar", "b.tar"))
    missing, provided = [first, second], []

    def read():
        if missing:
            raise Incomplete("a file is missing", missing[0])
        return "all"

    def provide_again(archive):
        provided.append(archive)
        missing.remove(archive)

    assert until_complete(read, provide_again) == "all" and provided == [first, second]
    missing.append(first)
    with pytest.raises(Incomplete):
        until_complete(read, provided.append)
    assert provided == [first, second, first]
    missing[0] = None
    with pytest.raises(Incomplete):
        until_complete(read, provide_again)


def test_what_is_there_is_not_fetched(server, tmp_path):
    server.content = pack_tar(tmp_path / "made.tar", FILES).read_bytes()
    archive = archive_of(server, server.content)
    provide(archive, tmp_path / "a", there=True)
    assert server.asked == [] and not (tmp_path / "a").exists()
    provide(archive, tmp_path / "a", there=False)
    assert (tmp_path / "a/d/e/b.txt").read_bytes() == b"two"
    (tmp_path / "a/d/e/b.txt").unlink()
    provide(archive, tmp_path / "a", there=True)  # the archive lies there: it is unpacked again
    assert (tmp_path / "a/d/e/b.txt").exists() and server.asked == [None]
