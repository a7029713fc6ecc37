"""Archives from outside are unpacked safely or not at all."""

from __future__ import annotations

import io
import os
import random
import resource
import stat
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from project_root import ROOT
from shardline.archive_parts import Archive, Joined, group
from shardline.archives import Limits, extract, extract_matching
from shardline.errors import DataError

NOISE = random.Random(0).randbytes(400_000)


def write_zip(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members:
            archive.writestr(name, data)


def write_tar(path, members, kind=tarfile.REGTYPE, link="target", mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.type, entry.size, entry.linkname = kind, len(data), link
            archive.addfile(entry, io.BytesIO(data))


def one(path):
    return Archive(path.name, path.parent, (path,))


def cut(path, *sizes, name="{}.part_{:03}"):
    """Replace a file by its parts."""
    data = path.read_bytes()
    path.unlink()
    ends = [sum(sizes[: n + 1]) for n in range(len(sizes))] + [len(data)]
    parts = []
    for number, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        parts.append(path.with_name(name.format(path.name, number)))
        parts[-1].write_bytes(data[start:end])
    return parts


def files_below(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_archives_are_unpacked_where_they_lie_and_stay(tmp_path, write):
    (tmp_path / "data").mkdir()
    write(tmp_path / "data/a.archive", [("images/1.png", b"one"), ("images/2.png", b"two")])
    extract_matching(tmp_path, ["*/*.archive"])
    extract_matching(tmp_path, ["*.archive"])  # again: the same content is no harm
    assert files_below(tmp_path) == {"data/a.archive", "data/images/1.png", "data/images/2.png"}
    assert (tmp_path / "data/images/2.png").read_bytes() == b"two"


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz", "zst"])
@pytest.mark.parametrize("name", ["a.archive", "a.tar"])
def test_every_compression_is_told_by_its_first_bytes(tmp_path, mode, name):
    path = tmp_path / name
    write_tar(path, [("a.bin", NOISE)], mode="w" if mode == "zst" else mode)
    if mode == "zst":
        path.write_bytes(zstandard.compress(path.read_bytes()))
    extract(one(path))
    assert (tmp_path / "a.bin").read_bytes() == NOISE


@pytest.mark.parametrize("write", [write_zip, write_tar])
@pytest.mark.parametrize("name", ["{}.part_{:03}", "{}_part{}", "{}.PART{:02}", "{}-part-{}"])
def test_parts_are_read_in_the_order_of_their_numbers(tmp_path, write, name):
    write(tmp_path / "a.tar.gz", [("noise.bin", NOISE)])
    parts = cut(tmp_path / "a.tar.gz", *[30_000] * 11, name=name)
    (tmp_path / "other.tar.gz.part_000").write_bytes(b"not asked for")
    extract_matching(tmp_path, ["a.tar.gz*"])
    assert (tmp_path / "noise.bin").read_bytes() == NOISE
    assert all(part.is_file() for part in parts) and len(parts) == 12


def test_two_archives_and_two_folders_are_kept_apart(tmp_path):
    for name in ("x/a", "x/b", "y/a"):
        path = tmp_path / f"{name}.tar.gz"
        path.parent.mkdir(exist_ok=True)
        write_tar(path, [(f"{name[-1]}.bin", name.encode() + NOISE)])
        cut(path, 100_000)
    extract_matching(tmp_path, ["*.part_*"])
    for name in ("x/a", "x/b", "y/a"):
        assert (tmp_path / f"{name}.bin").read_bytes() == name.encode() + NOISE


def test_missing_doubled_and_misnumbered_parts_are_named(tmp_path):
    write_tar(tmp_path / "a.tar.gz", [("noise.bin", NOISE)])
    parts = cut(tmp_path / "a.tar.gz", 100_000, 100_000)
    data = parts[1].read_bytes()
    parts[1].unlink()
    with pytest.raises(DataError, match=r"a\.tar\.gz: part 1 is missing; there are 0, 2"):
        extract_matching(tmp_path, ["*part*"])
    parts[1].write_bytes(data)
    (tmp_path / "a.tar.gz.part_1").write_bytes(data)
    with pytest.raises(DataError, match="both part 1"):
        extract_matching(tmp_path, ["*part*"])
    (tmp_path / "a.tar.gz.part_1").unlink()
    parts[0].unlink()
    with pytest.raises(DataError, match="part 0 is missing"):
        extract_matching(tmp_path, ["*part*"])


def test_damage_names_its_part(tmp_path):
    write_tar(tmp_path / "a.tar.gz", [("noise.bin", NOISE)])
    parts = cut(tmp_path / "a.tar.gz", 101_000, 101_000, 101_000)
    whole = [part.read_bytes() for part in parts]

    parts[0].write_bytes(b"PX" + whole[0][2:])
    with pytest.raises(DataError, match=r"part_000 does not begin as \.gz does: 5058"):
        extract_matching(tmp_path, ["*part*"])
    parts[0].write_bytes(whole[0])
    parts[1].write_bytes(whole[1][:-1])
    with pytest.raises(DataError, match=r"part_001 has 100999 bytes, other parts have 101000"):
        extract_matching(tmp_path, ["*part*"])
    parts[1].write_bytes(whole[1])
    flipped = bytearray(whole[3])
    flipped[-6] ^= 1  # in the checksum that ends the stream
    parts[3].write_bytes(bytes(flipped))
    (tmp_path / "noise.bin").unlink(missing_ok=True)
    with pytest.raises(DataError, match=r"CRC.*part_003"):
        extract_matching(tmp_path, ["*part*"])
    parts[3].write_bytes(whole[3])
    extract_matching(tmp_path, ["*part*"])
    assert (tmp_path / "noise.bin").read_bytes() == NOISE


@pytest.mark.parametrize("write", [write_zip, write_tar])
@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/../../x", "..\\x", "C:\\x"])
def test_names_that_lead_elsewhere(tmp_path, write, name):
    (tmp_path / "in").mkdir()
    write(tmp_path / "in/a.archive", [(name, b"x")])
    with pytest.raises(DataError, match="outside its folder"):
        extract(one(tmp_path / "in/a.archive"))
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["a.archive"]


@pytest.mark.parametrize("kind", [tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_devices(tmp_path, kind):
    write_tar(tmp_path / "a.tgz", [("x", b"")], kind)
    with pytest.raises(DataError, match="is a device"):
        extract(one(tmp_path / "a.tgz"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
@pytest.mark.parametrize("target", ["/etc/passwd", "../secret", "sub/../../secret"])
def test_links_out_of_the_folder(tmp_path, kind, target):
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "in").mkdir()
    write_tar(tmp_path / "in/a.tgz", [("x", b"")], kind, target)
    with pytest.raises(DataError, match=r"link out of|outside its folder"):
        extract(one(tmp_path / "in/a.tgz"))
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["a.tgz"]


def test_nothing_is_written_through_a_link(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in/a.tar", "w") as archive:
        link = tarfile.TarInfo("d")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "out")
        archive.addfile(link)
        entry = tarfile.TarInfo("d/x")
        archive.addfile(entry)
    with pytest.raises(DataError):
        extract(one(tmp_path / "in/a.tar"))
    assert list((tmp_path / "out").iterdir()) == []


def test_links_inside_are_kept(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, kind, target in (
            ("soft.png", tarfile.SYMTYPE, "images/1.png"),
            ("images/1.png", tarfile.REGTYPE, ""),
            ("hard.png", tarfile.LNKTYPE, "images/1.png"),
        ):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, target
            entry.size = 3 if kind == tarfile.REGTYPE else 0
            archive.addfile(entry, io.BytesIO(b"one"))
    extract(one(tmp_path / "a.tar"))
    assert (tmp_path / "soft.png").read_bytes() == (tmp_path / "hard.png").read_bytes() == b"one"


def test_a_link_in_a_zip(tmp_path):
    entry = zipfile.ZipInfo("x")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(entry, "../../etc/passwd")
    with pytest.raises(DataError, match="link out of its folder"):
        extract(one(tmp_path / "a.zip"))


@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_bombs(tmp_path, write):
    if write is write_zip:
        with zipfile.ZipFile(tmp_path / "a.bomb", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("zeros", bytes(70 << 20))
    else:
        write_tar(tmp_path / "a.bomb", [("zeros", bytes(70 << 20))])
    with pytest.raises(DataError, match=r"unpacks to far more.*extract_limits\.ratio"):
        extract(one(tmp_path / "a.bomb"))
    assert (tmp_path / "zeros").stat().st_size <= 64 << 20
    (tmp_path / "zeros").unlink()
    extract(one(tmp_path / "a.bomb"), Limits(ratio=1100))
    write(tmp_path / "many", [(f"{n}", b"") for n in range(11)])
    with pytest.raises(DataError, match=r"more than 10 members.*extract_limits\.members"):
        extract(one(tmp_path / "many"), Limits(members=10))


def test_a_header_of_gigabytes(tmp_path):
    entry = tarfile.TarInfo("x")
    entry.type, entry.size = tarfile.GNUTYPE_LONGNAME, 8 << 30
    (tmp_path / "a.tar").write_bytes(entry.tobuf(tarfile.GNU_FORMAT) + bytes(10240))
    with pytest.raises(DataError, match="name or attribute of 8,589,934,592 bytes"):
        extract(one(tmp_path / "a.tar"))


def test_a_stream_that_never_ends_after_the_tar(tmp_path):
    write_tar(tmp_path / "a.tar", [("x", b"x")], mode="w")
    compressor = zstandard.ZstdCompressor().compressobj()
    with open(tmp_path / "a.tar.zst", "wb") as file:
        file.write(compressor.compress((tmp_path / "a.tar").read_bytes()))
        for _ in range(700):
            file.write(compressor.compress(bytes(1 << 20)))
        file.write(compressor.flush())
    with pytest.raises(DataError, match="unpacks to far more"):
        extract(one(tmp_path / "a.tar.zst"))


def test_damage_overwriting_and_no_match(tmp_path):
    write_zip(tmp_path / "a.zip", [("a.txt", b"x" * 5000)])
    (tmp_path / "a.txt").write_text("mine")
    with pytest.raises(DataError, match="would overwrite"):
        extract(one(tmp_path / "a.zip"))
    assert (tmp_path / "a.txt").read_text() == "mine"
    write_zip(tmp_path / "a2.zip", [("a.txt/b", b"x")])
    with pytest.raises(DataError, match="would overwrite"):
        extract(one(tmp_path / "a2.zip"))
    (tmp_path / "b.zip").write_bytes(b"no archive")
    with pytest.raises(DataError, match="neither"):
        extract(one(tmp_path / "b.zip"))
    (tmp_path / "empty.tar").touch()
    with pytest.raises(DataError, match="neither"):
        extract(one(tmp_path / "empty.tar"))
    write_zip(tmp_path / "long.zip", [("n" * 300, b"x")])
    with pytest.raises(DataError, match="name that cannot be written"):
        extract(one(tmp_path / "long.zip"))
    with pytest.raises(DataError, match="no file matches"):
        extract_matching(tmp_path, ["*.rar"])


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz", "zip", "zst"])
def test_any_cut_is_an_error(tmp_path, mode):
    path = tmp_path / "a.archive"
    if mode == "zip":
        write_zip(path, [("a.bin", NOISE), ("b.bin", NOISE)])
    else:
        write_tar(path, [("a.bin", NOISE), ("b.bin", NOISE)], mode="w" if mode == "zst" else mode)
    if mode == "zst":
        path.write_bytes(zstandard.compress(path.read_bytes()))
    data = path.read_bytes()
    for share in (0.1, 0.5, 0.9):
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(DataError, match="damaged"):
            extract(one(path))
        for name in ("a.bin", "b.bin"):
            (tmp_path / name).unlink(missing_ok=True)


@settings(max_examples=30)
@given(
    sizes=st.lists(st.integers(0, 50), min_size=1, max_size=6),
    reads=st.lists(st.tuples(st.integers(-5, 200), st.integers(0, 80)), max_size=8),
)
def test_joined_parts_read_as_one_file(tmp_path_factory, sizes, reads):
    folder = tmp_path_factory.mktemp("parts")
    data = NOISE[: sum(sizes)]
    start = 0
    for number, size in enumerate(sizes):
        (folder / f"x.part{number}").write_bytes(data[start : start + size])
        start += size
    (archive,) = group(folder.iterdir())
    with io.BufferedReader(Joined(archive), 16) as joined:
        assert joined.read() == data
        for offset, length in reads:
            joined.seek(max(0, offset))
            assert joined.read(length) == data[max(0, offset) :][:length]


def test_memory_does_not_grow_with_the_archive(tmp_path):
    """180 MB in 3,000 members, unpacked by a process that may have 120 MB of data."""
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for number in range(3_000):
            entry = tarfile.TarInfo(f"{number % 100}/{number}.bin")
            entry.size = 60_000
            archive.addfile(entry, io.BytesIO(NOISE[:60_000]))
    cut(tmp_path / "a.tar", 90_000_000)
    code = (
        "import sys, pathlib\n"
        "from shardline.archives import extract_matching\n"
        "extract_matching(pathlib.Path(sys.argv[1]), ['*part*'])\n"
    )

    def limit():
        resource.setrlimit(resource.RLIMIT_DATA, (120 << 20, 120 << 20))

    subprocess.run(
        [sys.executable, "-c", code, tmp_path],
        env={**os.environ, "PYTHONPATH": str(Path(ROOT) / "scripts")},
        preexec_fn=limit,
        check=True,
    )
    assert (tmp_path / "99/2999.bin").read_bytes() == NOISE[:60_000]
