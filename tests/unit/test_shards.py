"""Deterministic WebDataset tars."""

from __future__ import annotations

import tarfile

import pytest

from shardline.errors import DataError
from shardline.shards import read_shard, write_shard

SAMPLES = [("a1", [("json", b"{}"), ("0.png", b"p" * 700)]), ("b2", [("json", b"{1}")])]


def test_round_trip_and_offsets(tmp_path):
    path = tmp_path / "x.tar"
    index = write_shard(path, iter(SAMPLES))
    assert list(read_shard(path)) == [(key, dict(members)) for key, members in SAMPLES]
    content = path.read_bytes()
    for (key, members), entries in zip(SAMPLES, index, strict=True):
        assert [entry.name for entry in entries] == [f"{key}.{suffix}" for suffix, _ in members]
        for (_, data), entry in zip(members, entries, strict=True):
            assert content[entry.offset : entry.offset + entry.size] == data


def test_same_bytes_and_fixed_headers(tmp_path):
    write_shard(tmp_path / "x.tar", SAMPLES)
    write_shard(tmp_path / "y.tar", SAMPLES)
    assert (tmp_path / "x.tar").read_bytes() == (tmp_path / "y.tar").read_bytes()
    with tarfile.open(tmp_path / "x.tar") as tar:
        for member in tar:
            assert (member.mtime, member.uid, member.gid, member.mode) == (0, 0, 0, 0o444)
            assert (member.uname, member.gname) == ("", "")
    assert (tmp_path / "x.tar").read_bytes()[257:263] == b"ustar\0"


def test_empty_shard(tmp_path):
    assert write_shard(tmp_path / "x.tar", []) == []
    assert list(read_shard(tmp_path / "x.tar")) == []


@pytest.mark.parametrize(
    "samples",
    [
        [("a.b", [("json", b"")])],
        [("", [("json", b"")])],
        [("a/b", [("json", b"")])],
        [("a", [("json", b"")]), ("a", [("json", b"")])],
        [("a", [("json", b""), ("json", b"")])],
        [("a", [("x" * 200, b"")])],
    ],
)
def test_bad_names_leave_nothing(tmp_path, samples):
    with pytest.raises(DataError):
        write_shard(tmp_path / "x.tar", samples)
    assert list(tmp_path.iterdir()) == []


def test_failing_generator_leaves_the_old_shard(tmp_path):
    write_shard(tmp_path / "x.tar", SAMPLES)
    before = (tmp_path / "x.tar").read_bytes()

    def samples():
        yield SAMPLES[0]
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        write_shard(tmp_path / "x.tar", samples())
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar"]
    assert (tmp_path / "x.tar").read_bytes() == before


def test_a_shard_cut_anywhere_is_found(tmp_path):
    path = tmp_path / "x.tar"
    index = write_shard(path, SAMPLES)
    whole = path.read_bytes()
    last = index[-1][-1]
    end = last.offset + -(-last.size // 512) * 512 + 1024
    for length in range(0, end, 128):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match="not a whole tar"):
            list(read_shard(path))
    with pytest.raises(DataError, match="no such file"):
        list(read_shard(tmp_path / "absent.tar"))


def test_webdataset_reads_it(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    write_shard(tmp_path / "x.tar", SAMPLES)
    read = list(webdataset.WebDataset(str(tmp_path / "x.tar"), shardshuffle=False))
    assert [sample["__key__"] for sample in read] == ["a1", "b2"]
    assert read[0]["0.png"] == b"p" * 700
