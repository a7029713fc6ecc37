"""Sources and locks."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import os
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path
from typing import ClassVar

import pytest

import fetch_dataset
import fetch_model
from raw_datasets import command_line
from shardline import locks
from shardline.errors import ConfigError, DataError
from shardline.files import read_json, short_hash

ROOT = Path(__file__).resolve().parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


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
def results(tmp_path):
    return tmp_path / "results"


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
    assert names == {".d.lease", "d", "d.lock.json", "d.files.tsv"}


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


def zip_of(name, data):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, data)
    return buffer.getvalue()


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub's HTTP interface as a snapshot needs; repositories answer by name."""

    files: ClassVar = {
        "metadata/train.json": b"[]",
        "images/a.png": b"picture",
        "model.safetensors": b"weights",
        "pytorch_model.bin": b"pickle",
        "config.json": b"{}",
        "shots.zip": zip_of("shots/1.png", b"picture"),
    }
    seen: ClassVar[list[str]] = []

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.seen.append(self.headers.get("Authorization", ""))
        status, code = {
            "private": (401, "RepoNotFound"),
            "gated": (403, "GatedRepo"),
            "forbidden": (403, ""),
            "absent": (404, "RepoNotFound"),
            "broken": (500, ""),
        }.get(self.path.split("owner/")[1].split("/")[0], (200, ""))
        if "/revision/nowhere" in self.path:
            status, code = 404, "RevisionNotFound"
        if status != 200:
            self.answer(b"{}", status, {"X-Error-Code": code} if code else {})
        elif "/resolve/" in self.path:
            data = self.files[self.path.split(f"/resolve/{COMMIT}/")[1]]
            etag = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            self.answer(data, 200, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})
        elif "/tree/" in self.path:
            entries = [
                {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
                for name, data in self.files.items()
            ]
            self.answer(json.dumps(entries).encode(), 200, {})
        else:
            siblings = [{"rfilename": name} for name in self.files]
            content = {"id": "owner/good", "sha": COMMIT, "siblings": siblings}
            self.answer(json.dumps(content).encode(), 200, {})

    def answer(self, data, status, headers):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *arguments):
        """Keep the test's output clean."""


@pytest.fixture
def hub():
    Hub.seen = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def fetch_in_a_process(results, endpoint, repo, kind="dataset", token=None, **options):
    """The hub's address is read when its library is imported, so each fetch is a process."""
    raw = results / "raw"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(results / "home")}
    environment |= {"HF_HUB_DOWNLOAD_TIMEOUT": "2", "HF_HUB_ETAG_TIMEOUT": "2"}
    environment |= {"HF_TOKEN": token} if token else {}
    arguments = command_line(
        **{kind: "d"},
        options=json.dumps({"source": f"hub://owner/{repo}", **options}),
        raw=raw / "d",
        lock=raw / "d.lock.json",
        files=raw / "d.files.tsv",
    )
    return subprocess.run(
        [sys.executable, ROOT / f"scripts/fetch_{kind}.py", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_hub_snapshot(results, hub):
    done = fetch_in_a_process(
        results, hub, "good@v1", token="hf_secret", source_options={"allow": ["images/*", "*.json"]}
    )
    assert done.returncode == 0, done.stderr
    lock = read_json(results / "raw/d.lock.json")
    assert lock["revision"] == COMMIT
    assert set(locks.read_files(results / "raw/d.lock.json")) == {
        "config.json",
        "images/a.png",
        "metadata/train.json",
    }
    assert (results / "raw/d/images/a.png").read_bytes() == b"picture"
    assert "Bearer hf_secret" in Hub.seen and "hf_secret" not in done.stdout + done.stderr
    assert [path.name for path in (results / "raw").glob(".*")] == [".d.lease"]


def test_hub_archives_are_unpacked(results, hub):
    options = {"allow": ["*.zip"], "extract": ["*.zip"]}
    done = fetch_in_a_process(results, hub, "good@v1", source_options=options)
    assert done.returncode == 0, done.stderr
    assert set(locks.read_files(results / "raw/d.lock.json")) == {"shots/1.png"}


def test_hub_download_that_was_killed_while_unpacking(results, hub):
    options = {"allow": ["*.zip", "*.json"], "extract": ["*.zip"]}
    done = fetch_in_a_process(results, hub, "good@v1", source_options=options)
    assert done.returncode == 0, done.stderr
    (results / "raw/d.lock.json").unlink()
    key = short_hash(["owner/good", COMMIT, options["allow"]])
    left = results / f"raw/.d.{key}.unfinished"
    (results / "raw/d").rename(left)
    (left / ".unpacking").touch()
    (results / "raw/.d.00000000.unfinished").mkdir()
    done = fetch_in_a_process(results, hub, "good@v1", source_options=options)
    assert done.returncode == 0, done.stderr
    assert locks.verify(results / "raw/d.lock.json", results / "raw/d") == []
    assert [path.name for path in (results / "raw").glob(".*")] == [".d.lease"]


def test_hub_model_without_its_pickle(results, hub):
    done = fetch_in_a_process(results, hub, "good@v1", kind="model")
    assert done.returncode == 0, done.stderr
    files = set(locks.read_files(results / "raw/d.lock.json"))
    assert "model.safetensors" in files and "pytorch_model.bin" not in files
    assert set(Hub.seen) == {""}


@pytest.mark.parametrize(
    ("repo", "message"),
    [
        ("private@v1", "no such public repository, or it is private (401)"),
        ("gated@v1", "accept its terms"),
        ("forbidden@v1", "refuses access to dataset owner/forbidden (403)"),
        ("absent@v1", "does not exist at the hub (404)"),
        ("good@nowhere", "no revision 'nowhere'"),
    ],
)
def test_hub_refusals_are_plain(results, hub, repo, message):
    done = fetch_in_a_process(results, hub, repo, token="hf_secret")
    assert done.returncode == 1
    assert message in done.stderr and "Traceback" not in done.stderr
    assert "hf_secret" not in done.stderr


def test_no_network_is_plain(results):
    with http.server.HTTPServer(("127.0.0.1", 0), Hub) as closed:
        port = closed.server_port
    done = fetch_in_a_process(results, f"http://127.0.0.1:{port}", "good@v1")
    assert done.returncode == 1
    assert "cannot reach the hub" in done.stderr and "Traceback" not in done.stderr
