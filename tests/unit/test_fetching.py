"""Sources and locks."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

import fetch_dataset
import fetch_model
from raw_datasets import command_line
from shardline import garbage, locks
from shardline.config import project
from shardline.errors import ConfigError, DataError
from shardline.files import read_json

ROOT = Path(__file__).resolve().parents[2]


def fetch(results, name, program=fetch_dataset, **options):
    kind = "dataset" if program is fetch_dataset else "model"
    raw = results / "raw"
    program.main(
        command_line(
            **{kind: name},
            options=json.dumps(options),
            raw=raw / name,
            lock=raw / f"{name}.lock.json",
            files=raw / f"{name}.files.tsv",
        )
    )
    return read_json(raw / f"{name}.lock.json")


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "data"
    (folder / "b").mkdir(parents=True)
    (folder / "b/z.txt").write_text("zz")
    (folder / "a.txt").write_text("a")
    (folder / ".DS_Store").write_text("dropping")
    (folder / "b/._z.txt").write_text("dropping")
    return folder


def test_folder_is_linked_and_locked(folder, results):
    lock = fetch(results, "d", source=f"folder:{folder}")
    listing = results / "raw/d.files.tsv"
    assert (results / "raw/d").is_symlink()
    assert listing.read_text() == "".join(
        f"{path}\t{len(text)}\t{hashlib.sha256(text.encode()).hexdigest()}\n"
        for path, text in (("a.txt", "a"), ("b/z.txt", "zz"))
    )
    assert lock == {
        "name": "d",
        "kind": "dataset",
        "source": f"folder:{folder}",
        "options": {},
        "revision": "",
        "files": 2,
        "bytes": 3,
        "sha256": hashlib.sha256(listing.read_bytes()).hexdigest(),
    }
    before = (listing.read_bytes(), (results / "raw/d.lock.json").read_bytes())
    fetch(results, "d", source=f"folder:{folder}")
    assert before == (listing.read_bytes(), (results / "raw/d.lock.json").read_bytes())


def test_folder_reached_through_links(folder, results, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "inside").symlink_to(folder)
    (folder / "b/circle").symlink_to(folder)
    lock = fetch(results, "d", source=f"folder:{other}")
    assert lock["files"] == 2
    assert set(locks.read_files(results / "raw/d.lock.json")) == {"inside/a.txt", "inside/b/z.txt"}


def test_another_folder_replaces_the_link_and_leaves_the_first_alone(folder, results, tmp_path):
    fetch(results, "d", source=f"folder:{folder}")
    other = tmp_path / "other"
    other.mkdir()
    (other / "c.txt").write_text("c")
    fetch(results, "d", source=f"folder:{other}")
    assert (results / "raw/d").resolve() == other
    assert (folder / "a.txt").exists()


def test_verify_names_each_difference(folder, results):
    fetch(results, "d", source=f"folder:{folder}")
    lock, raw = results / "raw/d.lock.json", results / "raw/d"
    assert locks.verify(lock, raw) == []
    (folder / "a.txt").write_text("b")
    (folder / "b/z.txt").write_text("longer")
    (folder / "new.txt").write_text("")
    problems = locks.verify(lock, raw)
    assert len(problems) == 3
    assert "a.txt: other content" in problems[0]
    assert "z.txt: 6 bytes, locked with 2" in problems[1]
    assert "new.txt: not in the lock" in problems[2]
    (folder / "a.txt").unlink()
    assert "a.txt: missing" in locks.verify(lock, raw)[0]


def test_locking_again_reads_only_what_is_new_or_resized(folder, results, monkeypatch):
    first = fetch(results, "d", source=f"folder:{folder}")
    (folder / "new.txt").write_text("new")
    (folder / "b/z.txt").write_text("longer")
    hashed = []
    monkeypatch.setattr(locks, "sha256_file", lambda path: hashed.append(path) or sha256(path))
    second = fetch(results, "d", source=f"folder:{folder}")
    assert sorted(path.name for path in hashed) == ["new.txt", "z.txt"]
    assert second["files"] == first["files"] + 1
    files = locks.read_files(results / "raw/d.lock.json")
    assert {path: entry.sha256 for path, entry in files.items()} == {
        path: sha256(folder / path) for path in ("a.txt", "b/z.txt", "new.txt")
    }


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_same_size_edit_that_keeps_its_time_is_for_verify_to_find(folder, results):
    fetch(results, "d", source=f"folder:{folder}")
    status = (folder / "a.txt").stat()
    (folder / "a.txt").write_text("b")
    os.utime(folder / "a.txt", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert project.folder_digest(folder) == project.folder_digest(results / "raw/d")
    fetch(results, "d", source=f"folder:{folder}")
    (problem,) = locks.verify(results / "raw/d.lock.json", results / "raw/d")
    assert "a.txt: other content" in problem


def test_the_digest_of_a_folder_follows_names_sizes_and_links(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "inside").symlink_to(folder)
    digests = [project.folder_digest(other)]
    (folder / ".DS_Store").write_text("more")
    assert project.folder_digest(other) == digests[0]
    (folder / "b/z.txt").write_text("zzz")
    digests.append(project.folder_digest(other))
    (folder / "b/z.txt").rename(folder / "b/y.txt")
    digests.append(project.folder_digest(other))
    (folder / "dead").symlink_to(tmp_path / "nowhere")
    digests += [project.folder_digest(other), project.folder_digest(tmp_path / "absent")]
    assert len(set(digests)) == 5


def test_archives_of_a_read_only_folder_are_unpacked_beside_links(folder, results):
    with tarfile.open(folder / "b/shots.tar.gz", "w:gz") as archive:
        archive.add(folder / "a.txt", "inner/a.txt")
    data = (folder / "b/shots.tar.gz").read_bytes()
    (folder / "b/shots.tar.gz").unlink()
    (folder / "b/shots.tar.gz_part0").write_bytes(data[:50])
    (folder / "b/shots.tar.gz_part1").write_bytes(data[50:])
    before = sorted(folder.rglob("*"))
    options = {"extract": ["*.tar.gz_part*"]}
    for path in (folder, folder / "b"):
        path.chmod(0o555)
    try:
        fetch(results, "d", source=f"folder:{folder}", source_options=options)
        lock = fetch(results, "d", source=f"folder:{folder}", source_options=options)
    finally:
        for path in (folder, folder / "b"):
            path.chmod(0o755)
    files = set(locks.read_files(results / "raw/d.lock.json"))
    assert files == {"a.txt", "b/z.txt", "b/inner/a.txt"}
    assert [row["path"] for row in lock["archives"]] == [
        "b/shots.tar.gz_part0",
        "b/shots.tar.gz_part1",
    ]
    assert sorted(folder.rglob("*")) == before
    for waste in garbage.unpacked_archives(results):
        garbage.remove(waste, results)
    assert files == set(locks.list_files(results / "raw/d"))
    assert locks.verify(results / "raw/d.lock.json", results / "raw/d") == []
    assert sorted(folder.rglob("*")) == before


def test_a_list_that_is_not_the_locked_one(folder, results):
    fetch(results, "d", source=f"folder:{folder}")
    with open(results / "raw/d.files.tsv", "a") as file:
        file.write("x\t0\tx\n")
    with pytest.raises(DataError, match="is not the list"):
        locks.read_files(results / "raw/d.lock.json")
    (results / "raw/d.files.tsv").unlink()
    with pytest.raises(DataError, match="fetch the data again"):
        locks.read_files(results / "raw/d.lock.json")


def test_what_cannot_be_locked_is_named(results, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="no files"):
        fetch(results, "d", source=f"folder:{empty}")
    (empty / "a\tb").write_text("x")
    with pytest.raises(DataError, match="rename"):
        fetch(results, "d", source=f"folder:{empty}")
    (empty / "a\tb").unlink()
    (empty / "dead").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match="link to nothing"):
        fetch(results, "d", source=f"folder:{empty}")
    (empty / "dead").unlink()
    os.mkfifo(empty / "pipe")
    with pytest.raises(DataError, match="neither a file nor a folder"):
        fetch(results, "d", source=f"folder:{empty}")
    assert not (results / "raw/d.lock.json").exists()


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("folder:/no/such/folder", {}, "no such folder"),
        ("folder:/tmp", {"allow": ["*"]}, "source_options"),
        ("/tmp", {}, "not scheme:place"),
        ("ftp://host/x", {}, "no sources module is named 'ftp'"),
        ("hub://owner/name", {}, "hub://owner/name@revision"),
        ("hub://name@main", {}, "hub://owner/name@revision"),
        ("hub://owner/name@main", {"patterns": []}, "no option patterns"),
        ("hub://owner/name@main", {"extract_limits": {"size": 3}}, "ratio, members"),
        ("hub://owner/name@main", {"extract_limits": {"ratio": 0}}, "above 0"),
        ("https://host/a.zip", {}, "sha256"),
        ("https://host/a.zip", {"allow": []}, "no option allow"),
        ("generate:no_such_generator", {}, "no_such_generator"),
    ],
)
def test_wrong_sources_say_what_is_right(results, source, options, message):
    with pytest.raises(ConfigError, match=message):
        fetch(results, "d", source=source, source_options=options)


def test_generator_from_a_plugin_and_what_a_killed_one_left(results, tmp_path):
    plugin = tmp_path / "my_generator.py"
    plugin.write_text(
        "class Numbers:\n"
        "    @staticmethod\n"
        "    def generate(folder, options):\n"
        "        assert not any(folder.iterdir())\n"
        "        for n in range(options['count']):\n"
        "            (folder / f'{n}.txt').write_text(str(n))\n"
        "            if options.get('dies'):\n"
        "                raise KeyboardInterrupt\n"
        "shardline_generators = {'numbers': Numbers}\n"
    )
    options = {"source": "generate:numbers", "plugins": [str(plugin)]}
    first = fetch(results, "d", source_options={"count": 2}, **options)
    assert first["files"] == 2 and first["revision"]
    with pytest.raises(KeyboardInterrupt):
        fetch(results, "d", source_options={"count": 3, "dies": True}, **options)
    assert not (results / "raw/d.lock.json").exists()
    second = fetch(results, "d", source_options={"count": 3}, **options)
    assert second["files"] == 3 and second["revision"] != first["revision"]
    names = {path.name for path in (results / "raw").iterdir()}
    assert names == {".d.lease", ".d.known.json", "d", "d.lock.json", "d.files.tsv"}


def test_a_second_run_waits_for_the_job_of_a_killed_one(results, tmp_path):
    """Both write the same folder; neither may see the other's half of it."""
    plugin = tmp_path / "slow.py"
    plugin.write_text(
        "import os, time\n"
        "class Slow:\n"
        "    @staticmethod\n"
        "    def generate(folder, options):\n"
        "        (folder / 'a.txt').write_text('a')\n"
        f"        gate = {str(tmp_path / 'gate')!r}\n"
        "        while not os.path.exists(gate):\n"
        "            time.sleep(0.05)\n"
        "        (folder / 'b.txt').write_text('b')\n"
        "shardline_generators = {'slow': Slow}\n"
    )
    raw = results / "raw"
    arguments = command_line(
        dataset="d",
        options=json.dumps({"source": "generate:slow", "plugins": [str(plugin)]}),
        raw=raw / "d",
        lock=raw / "d.lock.json",
        files=raw / "d.files.tsv",
    )
    command = [sys.executable, "-u", ROOT / "scripts/fetch_dataset.py", *arguments]
    with subprocess.Popen(command) as orphan:
        while not list(raw.glob(".d.*/a.txt")):
            assert orphan.poll() is None
            time.sleep(0.05)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as second:
            said = second.stdout.readline()
            (tmp_path / "gate").touch()
    assert f"waiting for process {orphan.pid} on " in said
    assert (orphan.returncode, second.returncode) == (0, 0)
    assert {path.name for path in (raw / "d").iterdir()} == {"a.txt", "b.txt"}


def test_a_model_needs_config_and_safetensors(results, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(DataError, match=r"config\.json"):
        fetch(results, "m", fetch_model, source=f"folder:{model}")
    (model / "config.json").write_text("{}")
    with pytest.raises(DataError, match="safetensors"):
        fetch(results, "m", fetch_model, source=f"folder:{model}")
    (model / "model.safetensors").write_bytes(b"weights")
    lock = fetch(results, "m", fetch_model, source=f"folder:{model}")
    assert lock["kind"] == "model" and lock["files"] == 3
