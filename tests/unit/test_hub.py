"""Snapshots of a hub and files of the web, from a server that fails as real ones do."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from io import BytesIO

import pytest

import fetch_dataset
import fetch_model
from hub_server import COMMIT, Repo, serve
from project_root import ROOT
from raw_datasets import command_line
from shardline import locks
from shardline.errors import UserError
from shardline.files import read_json

OTHER = "f" * 40
BIG = bytes(range(256)) * 4096  # 1 MiB
STEP = 10 << 20  # the hub's library writes what came in steps of 10 MiB


@pytest.fixture
def hub():
    with serve() as hub:
        hub.repos["datasets/owner/data"] = Repo(
            {
                "README.md": b"card",
                "metadata/train.json": b"[]",
                "metadata/test.json": b"{}",
                "images/a.png": b"picture",
                "images/b.png": b"another picture",
                "data/train-00000.parquet": b"rows",
                "empty.txt": b"",
                "big.bin": BIG,
            },
            lfs={"images/a.png", "big.bin"},
        )
        hub.repos["models/owner/data"] = Repo(
            {"model.safetensors": b"weights", "pytorch_model.bin": b"pickle", "config.json": b"{}"},
            lfs={"model.safetensors", "pytorch_model.bin"},
        )
        yield hub


@pytest.fixture(autouse=True)
def no_settings(monkeypatch, results):
    for name in os.environ:
        if name.startswith("HF_"):
            monkeypatch.delenv(name)


def arguments(results, source, kind="dataset", shared="", **options):
    raw = results / "raw"
    return command_line(
        **{kind: "d"},
        options=json.dumps({"source": source, "source_options": options}),
        raw=raw / "d",
        lock=raw / "d.lock.json",
        files=raw / "d.files.tsv",
        shared=shared,
    )


def fetch(results, hub, source="hub://owner/data@v1", *, kind="dataset", env=(), **options):
    program = fetch_dataset if kind == "dataset" else fetch_model
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"HF_ENDPOINT": hub.address, **dict(env)}.items():
            patch.setenv(name, value)
        program.main(arguments(results, source, kind, **options))


def start(results, hub, env=(), **options):
    """The program as a process of its own."""
    return subprocess.Popen(
        [
            sys.executable,
            ROOT / "scripts/fetch_dataset.py",
            *arguments(results, "hub://owner/data@v1", **options),
        ],
        env={**os.environ, "HF_ENDPOINT": hub.address, **dict(env)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def refused(results, hub, *parts, source="hub://owner/data@v1", **options):
    with pytest.raises(UserError) as error:
        fetch(results, hub, source, **options)
    for part in parts:
        assert part in str(error.value)
    assert not (results / "raw/d.lock.json").exists()


def locked(results):
    return set(locks.read_files(results / "raw/d.lock.json"))


def test_a_snapshot_is_what_the_hub_states(results, hub, capfd):
    fetch(results, hub, env={"HF_TOKEN": "hf_secret"}, allow=["images/*", "*.json"])
    said = capfd.readouterr()
    lock = read_json(results / "raw/d.lock.json")
    assert lock["revision"] == COMMIT and lock["options"] == {"allow": ["images/*", "*.json"]}
    wanted = {"images/a.png", "images/b.png", "metadata/train.json", "metadata/test.json"}
    assert locked(results) == wanted
    assert (results / "raw/d/images/a.png").read_bytes() == b"picture"
    assert "Bearer hf_secret" in hub.tokens and "hf_secret" not in "".join(said)
    assert f"better write hub://owner/data@{COMMIT}" in said.err
    names = {path.name for path in (results / "raw").iterdir()}
    assert names == {".d.lease", ".d.known.json", "d", "d.lock.json", "d.files.tsv"}


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"split": "metadata"}, {"metadata/train.json", "metadata/test.json"}),
        ({"split": "train"}, {"data/train-00000.parquet", "metadata/train.json"}),
        ({"data_files": ["images"]}, {"images/a.png", "images/b.png"}),
        ({"split": "images", "data_files": {"x": "images/a*"}}, {"images/a.png"}),
        ({"data_files": "*.parquet"}, {"data/train-00000.parquet"}),
    ],
)
def test_splits_and_data_files(results, hub, options, wanted):
    fetch(results, hub, **options)
    assert locked(results) == wanted


def test_a_split_or_subset_that_is_not_there_names_those_that_are(results, hub):
    refused(results, hub, "no split 'vision'", "data, images, metadata", split="vision")
    refused(results, hub, "no data files 'cost'", "images", data_files=["cost"])
    refused(results, hub, "no file that matches *.txt.gz", allow=["*.txt.gz"])


def test_models_come_without_pickles_unless_allowed(results, hub):
    fetch(results, hub, kind="model")
    assert locked(results) == {"model.safetensors", "config.json"}
    assert hub.tokens == {""}
    fetch(results, hub, kind="model", pickles=True)
    assert "pytorch_model.bin" in locked(results)


def test_a_cut_connection_is_continued(results, hub):
    repo = hub.repos["datasets/owner/data"]
    repo.files["big.bin"] = BIG * 25
    repo.cuts["big.bin"] = [STEP + 1000, 1000]
    fetch(results, hub, allow=["big.bin"])
    assert (results / "raw/d/big.bin").read_bytes() == BIG * 25
    assert hub.ranges == [f"bytes={STEP}-"] * 2
    assert hub.sent["big.bin"] == 25 * len(BIG) + 2000


def test_a_killed_download_is_continued_by_the_next(results, hub):
    repo = hub.repos["datasets/owner/data"]
    repo.files["big.bin"] = BIG * 12
    repo.cuts["big.bin"] = [STEP + 1000] + [0] * 100
    with start(results, hub, allow=["*.bin", "*.png"]) as process:
        while not hub.ranges:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    repo.cuts.clear()
    fetch(results, hub, allow=["*.bin", "*.png"])
    assert (results / "raw/d/big.bin").read_bytes() == BIG * 12
    assert hub.sent["big.bin"] == 12 * len(BIG) + 1000
    assert hub.asked[f"/datasets/owner/data/resolve/{COMMIT}/images/a.png"] == 1


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_hub_is_waited_for(results, hub, status):
    hub.repos["datasets/owner/data"].busy = [status, status]
    fetch(results, hub, allow=["images/a.png"])


def test_a_hub_that_stays_busy_is_named(results, hub):
    hub.repos["datasets/owner/data"].busy = [503] * 100
    refused(results, hub, "answers 503", "try again later", allow=["images/a.png"])


@pytest.mark.parametrize("path", ["images/a.png", "images/b.png"])
def test_one_wrong_byte_is_found_and_the_right_one_taken_next_time(results, hub, path):
    repo = hub.repos["datasets/owner/data"]
    repo.wrong[path] = repo.files[path][:-1] + b"?"
    refused(results, hub, path, "the hub states", "run again")
    assert not (results / "raw/d.lock.json").exists()
    repo.wrong.clear()
    fetch(results, hub)
    assert (results / "raw/d" / path).read_bytes() == repo.files[path]


def test_refusals_are_plain_and_each_its_own(results, hub):
    data = hub.repos["datasets/owner/data"]
    token = {"HF_TOKEN": "hf_secret"}
    refused(results, hub, "(401)", "set HF_TOKEN", source="hub://owner/absent@v1")
    refused(results, hub, "(404)", "does not exist", source="hub://owner/absent@v1", env=token)
    refused(results, hub, "no revision 'nowhere'", source="hub://owner/data@nowhere")
    refused(results, hub, f"no revision '{OTHER}'", source=f"hub://owner/data@{OTHER}")
    data.token = "hf_right"
    refused(results, hub, "it is private (401)", "set HF_TOKEN to a token")
    refused(results, hub, "(401)", "token in HF_TOKEN is valid", env=token)
    with start(results, hub, env=token) as process:
        said = process.stdout.read()
    assert process.returncode == 1 and "hf_secret" not in said
    assert said.startswith("error: dataset d: ") and said.count("\n") == 1
    data.token, data.gated = "", True
    page = f"accept its terms at {hub.address}/datasets/owner/data"
    refused(results, hub, page, "set HF_TOKEN")
    refused(results, hub, page, "see that the token", env=token)


def test_no_network_is_plain(results):
    with serve() as closed:
        pass
    refused(results, closed, "cannot reach the hub", "HF_ENDPOINT")


def test_offline_needs_what_is_locked(results, hub, capsys):
    offline = {"HF_HUB_OFFLINE": "1"}
    refused(results, hub, "HF_HUB_OFFLINE is set", "folder:/path", env=offline)
    fetch(results, hub)
    lock = (results / "raw/d.lock.json").read_bytes()
    asked = sum(hub.asked.values())
    fetch(results, hub, env=offline)
    assert "kept what is locked" in capsys.readouterr().err
    assert (results / "raw/d.lock.json").read_bytes() == lock
    assert sum(hub.asked.values()) == asked


def test_what_is_whole_is_not_fetched_again_and_what_is_damaged_is(results, hub):
    fetch(results, hub)
    lock, sent = (results / "raw/d.lock.json").read_bytes(), hub.sent["big.bin"]
    fetch(results, hub)
    assert hub.sent["big.bin"] == sent
    file = results / "raw/d/images/a.png"
    status = file.stat()
    file.write_bytes(b"pictUre")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    (problem,) = locks.verify(results / "raw/d.lock.json", results / "raw/d")
    assert "images/a.png: other content" in problem
    fetch(results, hub)
    assert file.read_bytes() == b"picture"
    assert (results / "raw/d.lock.json").read_bytes() == lock


@pytest.mark.parametrize("removed", [False, True])
def test_a_branch_that_moves_is_an_error(results, hub, removed):
    fetch(results, hub, "hub://owner/data@main")
    hub.repos["datasets/owner/data"].revisions["main"] = OTHER
    if removed:
        (results / "raw/d").rename(results / "moved")
    refused(results, hub, COMMIT, OTHER, source="hub://owner/data@main")
    assert not (results / "raw/d.lock.json").exists()


@pytest.mark.parametrize("path", ["images/a.png", "images/b.png"])
def test_other_data_under_the_same_commit_is_an_error(results, hub, path):
    fetch(results, hub)
    hub.repos["datasets/owner/data"].files[path] = b"changed"
    (results / "raw/d").rename(results / "moved")
    refused(results, hub, path, "other data than before", ".d.known.json")
    refused(results, hub, path)
    (results / "raw/.d.known.json").unlink()
    fetch(results, hub)


def test_an_lfs_file_that_changed_is_seen_without_fetching_it(results, hub):
    fetch(results, hub)
    hub.repos["datasets/owner/data"].files["images/a.png"] = b"changed"
    refused(results, hub, "images/a.png was locked with sha256", "find out why")


def test_archives_in_parts_are_unpacked_and_kept(results, hub):
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in ("a.png", "sub/b.png"):
            entry = tarfile.TarInfo(name)
            entry.size = 7
            archive.addfile(entry, BytesIO(b"picture"))
    data = buffer.getvalue()
    third = len(data) // 3
    repo = hub.repos["datasets/owner/data"]
    repo.files = {
        "vision/cost/cost.jsonl": b"{}\n",
        "vision/cost/cost.tar.gz.part_000": data[:third],
        "vision/cost/cost.tar.gz.part_001": data[third:],
        "language/evol/evol.jsonl": b"{}\n",
    }
    options = {"split": "vision", "data_files": ["cost"], "extract": ["*.tar.gz.part_*"]}
    fetch(results, hub, **options)
    assert locked(results) == {
        "vision/cost/cost.jsonl",
        "vision/cost/a.png",
        "vision/cost/sub/b.png",
    }
    lock = results / "raw/d.lock.json"
    archives = locks.read_archives(lock)
    assert [*archives] == [f"vision/cost/cost.tar.gz.part_00{n}" for n in (0, 1)]
    before = lock.read_bytes()
    for path in archives:
        (results / "raw/d" / path).unlink()
    assert locks.verify(lock, results / "raw/d") == []
    fetch(results, hub, **options)
    assert locked(results) == {*locks.read_files(lock)} and hub.sent["x"] == 0
    assert lock.read_bytes() == before


def test_a_download_killed_while_unpacking_is_not_fetched_again(results, hub):
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo("inner.png")
        entry.size = 7
        archive.addfile(entry, BytesIO(b"picture"))
    repo = hub.repos["datasets/owner/data"]
    repo.files = {"x.tar": buffer.getvalue(), "a.json": b"[]"}
    repo.files["broken.tar"] = repo.files["x.tar"][:600]
    refused(results, hub, "broken.tar", "damaged", extract=["*.tar"])
    (left,) = (results / "raw").glob(".d.*.unfinished")
    (left / "inner.png").write_bytes(b"pic")
    refused(results, hub, "broken.tar", "damaged", extract=["*.tar"])
    assert hub.sent["x.tar"] == len(repo.files["x.tar"])
    fetch(results, hub, allow=["x.tar", "*.json"], extract=["*.tar"])
    assert locked(results) == {"a.json", "inner.png"}
    assert not list((results / "raw").glob(".*.unfinished"))


def web_source(hub, name):
    return f"{hub.address}/web/{name}"


def test_a_file_of_the_web_is_resumed_and_checked(results, hub):
    sha256 = hashlib.sha256(BIG).hexdigest()
    hub.web.files["x/big file.bin"] = BIG
    hub.web.cuts["x/big file.bin"] = [100_000, 0, 400_000]
    hub.web.busy = [503, 429]
    source = web_source(hub, "x/big%20file.bin?download=1")
    fetch(results, hub, source, sha256=sha256.upper())
    assert (results / "raw/d/big file.bin").read_bytes() == BIG
    assert read_json(results / "raw/d.lock.json")["revision"] == sha256
    assert hub.sent["x/big file.bin"] == len(BIG)
    fetch(results, hub, source, sha256=sha256.upper())
    assert hub.sent["x/big file.bin"] == len(BIG)


def test_proxies_of_the_environment_are_used(results, hub):
    proxy = {"HTTP_PROXY": hub.address, "http_proxy": hub.address, "NO_PROXY": "", "no_proxy": ""}
    hub.web.files["a.bin"] = b"data"
    source = "http://host.invalid/web/a.bin"
    fetch(results, hub, source, env=proxy, sha256=hashlib.sha256(b"data").hexdigest())
    env = {**proxy, "HF_ENDPOINT": "http://hub.invalid"}
    with start(results, hub, env=env, allow=["images/a.png"]) as process:
        said = process.stdout.read()
    assert process.returncode == 0, said
    assert locked(results) == {"images/a.png"}


def test_a_wrong_or_missing_sha256_is_plain(results, hub):
    hub.web.files["a.zip"] = b"data"
    source = web_source(hub, "a.zip")
    refused(results, hub, "sha256 must state", source=source)
    refused(results, hub, "is expected", "nothing of it was kept", source=source, sha256="0" * 64)
    refused(results, hub, "answers 404", source=web_source(hub, "b.zip"), sha256="0" * 64)
    refused(results, hub, "options.name", source=web_source(hub, ""), sha256="0" * 64)
    assert not (results / "raw/d.lock.json").exists()


def test_a_shared_folder_that_is_read_only_is_linked(results, hub, tmp_path, capsys):
    shared = tmp_path / "shared"
    fetch(shared, hub, "hub://owner/data@v1")
    raw = shared / "raw"
    for path in (raw / "d/images", raw / "d", raw):
        path.chmod(0o555)
    sent = hub.sent["big.bin"]
    try:
        fetch(results, hub, shared=raw)
        assert (results / "raw/d").resolve() == raw / "d"
        assert (results / "raw/d.lock.json").read_bytes() == (raw / "d.lock.json").read_bytes()
        assert locks.verify(results / "raw/d.lock.json", results / "raw/d") == []
        assert hub.sent["big.bin"] == sent
        fetch(results, hub, "hub://owner/data@main", shared=raw)
        assert not (results / "raw/d").is_symlink()
    finally:
        for path in (raw, raw / "d", raw / "d/images"):
            path.chmod(0o755)
    (raw / "d/images/a.png").write_bytes(b"longer than before")
    fetch(results, hub, shared=raw)
    assert "is not what" in capsys.readouterr().err
    assert (results / "raw/d/images/a.png").read_bytes() == b"picture"


def test_only_the_fetching_programs_see_the_hub_and_its_token(tmp_path):
    """The others are offline before anything of the hub's library is imported."""
    programs = [path.stem for path in (ROOT / "scripts").glob("*.py")]
    code = (
        "import sys\n"
        "for name in sys.argv[1:]:\n"
        "    __import__(name)\n"
        "assert 'huggingface_hub' not in sys.modules\n"
        "from shardline.errors import run_program\n"
        "def main(argv):\n"
        "    import os, huggingface_hub.constants as hub\n"
        "    print(hub.HF_HUB_OFFLINE, os.environ.get('HF_TOKEN'))\n"
        "run_program(main)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *programs],
        env={**os.environ, "HF_TOKEN": "hf_secret", "PYTHONPATH": str(ROOT / "scripts")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "True None\n", done.stderr
    texts = {path.stem: path.read_text() for path in (ROOT / "scripts").glob("*.py")}
    online = {name for name, text in texts.items() if "network=True" in text}
    assert online == {"fetch_dataset", "fetch_model"}
