"""Archives from outside are unpacked safely or not at all."""

from __future__ import annotations

import io
import tarfile
import zipfile

import pytest

from shardline.archives import extract, extract_matching
from shardline.errors import DataError


def write_zip(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members:
            archive.writestr(name, data)


def write_tar(path, members, kind=tarfile.REGTYPE):
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.type, entry.size, entry.linkname = kind, len(data), "target"
            archive.addfile(entry, io.BytesIO(data))


@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_archives_are_replaced_by_what_was_in_them(tmp_path, write):
    (tmp_path / "data").mkdir()
    write(tmp_path / "data/a.archive", [("images/1.png", b"one"), ("images/2.png", b"two")])
    extract_matching(tmp_path, ["*/*.archive"])
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"data/images/1.png", "data/images/2.png"}
    assert (tmp_path / "data/images/2.png").read_bytes() == b"two"


@pytest.mark.parametrize("write", [write_zip, write_tar])
@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/../../x", "..\\x", "C:\\x"])
def test_names_that_lead_elsewhere(tmp_path, write, name):
    (tmp_path / "in").mkdir()
    write(tmp_path / "in/a.archive", [(name, b"x")])
    with pytest.raises(DataError, match="outside its folder"):
        extract(tmp_path / "in/a.archive")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["a.archive"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices(tmp_path, kind):
    write_tar(tmp_path / "a.tgz", [("x", b"")], kind)
    with pytest.raises(DataError, match="link or a device"):
        extract(tmp_path / "a.tgz")


def test_damage_overwriting_and_no_match(tmp_path):
    write_zip(tmp_path / "a.zip", [("a.txt", b"x" * 5000)])
    (tmp_path / "a.txt").write_text("mine")
    with pytest.raises(DataError, match="would overwrite"):
        extract(tmp_path / "a.zip")
    assert (tmp_path / "a.txt").read_text() == "mine"
    (tmp_path / "b.zip").write_bytes(b"no archive")
    with pytest.raises(DataError, match="neither"):
        extract(tmp_path / "b.zip")
    write_tar(tmp_path / "c.tgz", [("c.txt", bytes(range(256)) * 50)])
    (tmp_path / "c.tgz").write_bytes((tmp_path / "c.tgz").read_bytes()[:100])
    with pytest.raises(DataError):
        extract(tmp_path / "c.tgz")
    with pytest.raises(DataError, match="no file matches"):
        extract_matching(tmp_path, ["*.rar"])
