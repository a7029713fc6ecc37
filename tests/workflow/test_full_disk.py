"""A full disk, on a small tmpfs in a mount namespace of its own."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest

from workflow.workspace import Workspace

NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")
SCRIPT = """
set -u
mount -t tmpfs -o size={small} tmpfs "$1"
cd "$2"
run() {{ {snakemake} "$1" --profile profiles/local --configfile mini.yaml 2>&1; echo "exit=$?"; }}
run {first}
mount -o remount,size=400m "$1"
{between}
run {last}
"""


def namespaces() -> bool:
    """Whether this machine lets a process have a mount namespace."""
    if not shutil.which("unshare"):
        return False
    return subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(not namespaces(), reason="no mount namespaces here")


def run_script(tmp_path, script: str) -> str:
    workspace = Workspace.create(tmp_path / "project")
    disk = tmp_path / "disk"
    disk.mkdir()
    workspace.path("results").symlink_to(disk)
    done = subprocess.run(
        [*NAMESPACE, "bash", "-c", script, "bash", str(disk), str(workspace.folder)],
        env=workspace.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.stdout


@pytest.mark.slow
def test_a_full_disk_is_named_and_the_run_goes_on_when_there_is_space(tmp_path):
    """The data stages: what is finished is kept."""
    snakemake = f"{sys.executable} -m snakemake"
    script = SCRIPT.format(
        snakemake=snakemake, small="300k", first="tokens", between="", last="tokens"
    )
    full, again = run_script(tmp_path, script).split("exit=1")
    # The first to need more space may be Snakemake itself, which has words of its own.
    assert re.search("error: no space left on the disk of|No space left on device", full)
    assert "Traceback" not in full and "Traceback" not in again
    assert re.search(r"exit=0\s*$", again)


@pytest.mark.slow
def test_a_training_that_fills_the_disk_resumes(tmp_path):
    """The last whole checkpoint is kept and used."""
    snakemake = f"{sys.executable} -m snakemake"
    script = SCRIPT.format(
        snakemake=snakemake,
        small="400m",
        first="plans",
        between="""
        sed -i 's/checkpoint_every: 100/checkpoint_every: 1/' config/hardware/cpu.yaml
        used=$(du -sk "$1" | cut -f1)
        mount -o remount,size=$((used + 7000))k "$1"
        run train
        mount -o remount,size=400m "$1"
        """,
        last="train",
    )
    planned, full, again = re.split(r"exit=[01]\n", run_script(tmp_path, script))[:3]
    assert "error: no space left on the disk of" in full
    assert "Traceback" not in planned + full + again
    assert "resuming at step" in again
