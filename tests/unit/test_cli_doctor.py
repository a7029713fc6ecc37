"""`shardline doctor` and the checks behind it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest

from shardline import environment, machine
from shardline.cli.main import main

SECRET = "hf_abcdefghijklmnopqrstuvwx"


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "Snakefile").touch()
    (tmp_path / "envs").mkdir()
    lock = "".join(
        f"{name}=={version(name)} \\\n    --hash=sha256:00\n" for name in environment.NEEDED
    )
    (tmp_path / environment.LOCK).write_text(lock)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_check_has_a_state_and_what_to_do(project, capsys):
    main(["doctor", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["ready"] is True
    by_name = {check["name"]: check for check in found["checks"]}
    wanted = {"Python", "packages", "HF token", "HF_HOME", "network", "Graphviz", "git", "Slurm"}
    wanted |= {"CPU", "memory", "shared memory", "open files", "results", "disk", "MLflow port"}
    assert wanted <= set(by_name)
    assert all(check["advice"] for check in by_name.values() if check["state"] != "ok")
    assert by_name["packages"]["state"] == "ok"


def test_the_text_ends_with_the_verdict(project, capsys):
    main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "ready"
    assert lines[0].startswith("ok ")


def test_no_secret_is_ever_shown(project, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setenv("HTTPS_PROXY", "http://me:p@ss/w:rd@proxy.example:3128")
    monkeypatch.setenv("http_proxy", "me:other@proxy.example:80")
    monkeypatch.setenv("HF_ENDPOINT", "https://user:word@hub.example/mirror")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://u:pw@mlflow.example?token=abc")
    main(["doctor"])
    text = capsys.readouterr().out
    assert "set by HF_TOKEN" in text
    for part in (SECRET, "p@ss", "w:rd", "other", "user:", "word@", "pw@", "token=abc"):
        assert part not in text
    assert "http://proxy.example:3128" in text
    assert "https://hub.example/mirror" in text


def test_offline_flags_are_named(project, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "0")
    check = environment.offline()
    assert (check.state, check.found) == ("warn", "switched off by HF_HUB_OFFLINE")


def test_a_token_file_is_found_without_reading_it(tmp_path, monkeypatch):
    monkeypatch.delenv(environment.TOKEN, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_TOKEN_PATH", raising=False)
    assert environment.hub_token().state == "missing"
    (tmp_path / "token").write_text(SECRET)
    check = environment.hub_token()
    assert (check.state, check.found) == ("warn", f"in {tmp_path}/token")


def test_pins_are_read_with_their_markers():
    text = (
        "Some_Package==1.2 \\\n    --hash=sha256:00 \\\n"
        'windows-only==3 ; sys_platform == "win32" \\\n    --hash=sha256:00\n'
        "here==4.0 ; python_version >= '3.0' \\\n"
        "# comment==5\n"
    )
    assert environment.read_pins(text) == {"some-package": "1.2", "here": "4.0"}


@pytest.mark.parametrize(
    ("installed", "pinned", "same"),
    [
        ("2.1", "2.1", True),
        ("2.1+cu130", "2.1", True),
        ("2.1", "2.1+cpu", False),
        ("2.2", "2.1", False),
    ],
)
def test_a_builds_suffix_matters_only_if_pinned(installed, pinned, same):
    assert environment.same_version(installed, pinned) is same


def test_differing_packages_are_named(project):
    (project / environment.LOCK).write_text("numpy==0.1 \\\nno-such-package==1.0 \\\n")
    check = environment.packages(environment.LOCK)
    assert check.state == "missing"
    assert not check.required, "a package that nothing needs is no reason to stop"
    assert f"numpy {version('numpy')} (lock: 0.1)" in check.found
    assert "no-such-package is not installed" in check.found


def test_results_that_lead_nowhere_are_not_ready(project, capsys):
    (project / "results").symlink_to("/nowhere/results")
    with pytest.raises(SystemExit) as end:
        main(["doctor"])
    assert end.value.code == 1
    text = capsys.readouterr().out
    assert "a link to /nowhere/results, which is no folder" in text
    assert text.endswith("not ready: results\n")


def test_a_link_to_another_disk_is_fine(project, tmp_path_factory):
    target = tmp_path_factory.mktemp("disk")
    (project / "results").symlink_to(target)
    check = machine.disk(Path("results"))[0]
    assert (check.state, check.found) == ("ok", f"a link to {target}")


def test_a_taken_port_comes_with_a_free_one():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        taken = server.getsockname()[1]
        check = machine.port(taken)
        free = int(check.advice.rpartition(" ")[2])
        assert check.state == "warn"
        assert free > taken
        assert machine.port(free).state == "ok"


def test_a_low_limit_of_open_files_says_how_to_raise_it(monkeypatch):
    monkeypatch.setattr(machine.resource, "getrlimit", lambda _: (1024, 8192))
    check = machine.file_limit()
    assert (check.state, check.advice) == ("warn", "ulimit -n 8192")


def test_git_tells_commit_and_changes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert environment.git().found == "no commit here"
    identity = ["-c", "user.name=n", "-c", "user.email=e@x"]
    (tmp_path / "file").write_text("a")
    for words in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "m"]):
        subprocess.run(["git", *words], check=True)
    assert environment.git().found.endswith(", clean")
    (tmp_path / "file").write_text("b")
    assert environment.git().found.endswith(", 1 file not committed")


def test_a_container_with_little_memory_is_warned(monkeypatch):
    values = {"memory.max": str(2 * machine.GIB), "memory.current": str(machine.GIB)}
    monkeypatch.setattr(machine, "_cgroup", lambda name: values.get(name, ""))
    check = machine.memory()
    assert check.state == "warn"
    assert check.found == "2.1 GB, 1.1 GB free"


class FakeCuda:
    """Two GPUs, the second busy and old."""

    def is_available(self):
        return True

    def device_count(self):
        return 2

    def get_device_properties(self, index):
        return SimpleNamespace(name=("H100", "T4")[index], major=(9, 7)[index], minor=(0, 5)[index])

    def mem_get_info(self, index):
        return ((79_000_000_000, 1_000_000_000)[index], (80_000_000_000, 16_000_000_000)[index])

    nccl = SimpleNamespace(version=lambda: (2, 29, 3))


def fake_torch(cuda, nccl=True):
    return SimpleNamespace(
        __version__="2.14.1",
        cuda=cuda,
        version=SimpleNamespace(cuda="13.0"),
        distributed=SimpleNamespace(is_nccl_available=lambda: nccl),
    )


def test_gpus_are_told_with_memory_driver_and_nccl(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", fake_torch(FakeCuda()))
    first, second, driver, nccl = machine.gpus()
    assert (first.state, first.found) == ("ok", "H100, 80.0 GB, 79.0 GB free, sm_90")
    assert second.state == "warn"
    assert "no bf16" in second.advice
    assert "CUDA 13.0" in driver.found
    assert nccl.found == "2.29.3"


def test_several_gpus_without_nccl_are_a_lack(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", fake_torch(FakeCuda(), nccl=False))
    assert machine.gpus()[-1].name == "NCCL"
    assert machine.gpus()[-1].state == "missing"


def test_a_gpu_that_torch_cannot_use_is_told(monkeypatch):
    cuda = SimpleNamespace(is_available=lambda: False)
    monkeypatch.setitem(sys.modules, "torch", fake_torch(cuda))
    monkeypatch.setattr(machine, "gpu_devices", lambda: [Path("/dev/nvidia0")])
    (check,) = machine.gpus()
    assert check.state == "warn"
    assert "cannot use it" in check.found
    monkeypatch.setattr(machine, "gpu_devices", list)
    assert machine.gpus()[0].state == "missing"


def test_torch_is_imported_only_where_a_gpu_may_be(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(machine, "gpu_devices", list)
    names = [check.name for check in machine.machine_checks(tmp_path / "results", gpu=False)]
    assert "GPU" in names
    with pytest.raises(ImportError):
        machine.machine_checks(tmp_path / "results", gpu=True)
