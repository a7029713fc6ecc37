"""Signals, kills and the error of one rank: the next run repeats the uninterrupted training."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_project
from tiny_project import TUNE, Project
from watched_trainings import damaged, first_use, saved

import train_stage
from project_root import ROOT
from shardline.training import signals
from shardline.training.journal import read_journal

SCRIPT = ROOT / "scripts/train_stage.py"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Enough steps to be interrupted anywhere."""
    made = tiny_project.build(tmp_path_factory.mktemp("project"), steps=40, max_length=200)
    made.hardware.write_text("micro_batch: 2\ncheckpoint_every: 5\nworkers: 2\n")
    return made


def _start(project: Project, **changes) -> subprocess.Popen[str]:
    """The program as its rule runs it, in a process group of its own."""
    return subprocess.Popen(
        [
            *("bash", "-c", 'set -o pipefail; "$@" 2>&1 | tee "$LOG"', "bash"),
            *(sys.executable, str(SCRIPT), *project.training(**changes)),
        ],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "LOG": str(project.results / "log")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def _loading(project: Project, seconds: float) -> tuple[subprocess.Popen[str], int]:
    """A training so long after it took its lease, and the process id of the program itself."""
    process = _start(project, tune=TUNE)
    while not list((project.stage / "work").glob("*/lease")):
        time.sleep(0.01)
    time.sleep(seconds)
    (python,) = [pid for pid in _members(process.pid) if _program(pid)]
    return process, python


def _wait_for_steps(project: Project, process: subprocess.Popen[str], steps: int) -> None:
    """Until this process, and not one before it, has done the step."""
    begun = time.time()
    while process.poll() is None:
        works = list((project.stage / "work").glob("*"))
        lines = list(read_journal(works[0])) if works else []
        if lines and lines[-1]["step"] >= steps and lines[-1]["time"] > begun:
            return
        time.sleep(0.005)
    pytest.fail(process.communicate()[0])


def _members(group: int) -> list[int]:
    """Living processes of a process group."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(words[2]) == group and words[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def _gone(group: int, seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not _members(group):
            return True
        time.sleep(0.1)
    return False


def _program(pid: int) -> bool:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return b"bash" not in words[0] and str(SCRIPT).encode() in words


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR1, marks=pytest.mark.slow),
    ],
)
def test_a_signal_to_the_whole_group_saves_with_two_loader_processes(
    fresh: Project, number: signal.Signals
) -> None:
    """As a terminal's Ctrl-C, or a batch system that stops a job: the log's pipe ends too."""
    process = _start(fresh, tune=TUNE)
    _wait_for_steps(fresh, process, 3)
    os.killpg(process.pid, number)
    said = process.communicate(timeout=60)[0]
    assert "Traceback" not in said and "killed by signal" not in said
    assert _gone(process.pid)
    steps = len(fresh.losses())
    assert 3 <= steps < 40 and steps in saved(fresh), said


@pytest.mark.slow
def test_a_second_ctrl_c_ends_at_once_and_in_one_line(fresh: Project) -> None:
    """While the model is loaded the first is only noted; the second is not waited for."""
    process, python = _loading(fresh, 1.0)
    os.kill(python, signal.SIGINT)
    time.sleep(signals.ECHO + 0.2)
    os.kill(python, signal.SIGINT)
    said = process.communicate(timeout=60)[0]
    assert "Traceback" not in said and _gone(process.pid)
    assert process.returncode == (75 if "before the first step" in said else 130), said


@pytest.mark.slow
def test_a_signal_while_the_model_is_loaded_ends_before_the_first_step(
    fresh: Project,
) -> None:
    process, python = _loading(fresh, 0.5)
    os.kill(python, signal.SIGTERM)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 75 and "stopped: SIGTERM: before the first step" in said, said
    assert "step 1/" not in said


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("workers", [0, 2])
def test_kills_and_stops_at_random_steps_change_no_loss(fresh: Project, workers: int) -> None:
    """LoRA dropout on; at least one kill falls between two checkpoints."""
    preset = f"micro_batch: 2\ncheckpoint_every: 5\nworkers: {workers}\n"
    fresh.hardware.write_text(preset)
    train_stage.main(fresh.training(tune=TUNE))
    expected = fresh.losses(), (fresh.stage / "result.json").read_bytes()
    shutil.rmtree(fresh.stage)

    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)
    steps = [chance.randrange(low, low + 8) for low in (2, 10, 18, 26)]
    numbers = [signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGTERM]
    between = False
    for step, number in zip(steps, numbers, strict=True):
        process = _start(fresh, tune=TUNE)
        _wait_for_steps(fresh, process, step)
        os.killpg(process.pid, number)
        said = process.communicate(timeout=120)[0]
        assert _gone(process.pid, 60)  # the training outlives its shell and its log
        print(f"{number.name} at step {len(fresh.losses())}, saved: {saved(fresh)}")
        between |= len(fresh.losses()) not in saved(fresh)
        if number == signal.SIGTERM:
            assert len(fresh.losses()) in saved(fresh), said
    assert not (fresh.stage / "result.json").exists()
    if not between:  # one more, in the middle of two checkpoints
        process = _start(fresh, tune=TUNE)
        _wait_for_steps(fresh, process, 37)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=120)
        assert _gone(process.pid)
    train_stage.main(fresh.training(tune=TUNE))
    assert fresh.losses() == expected[0]
    assert (fresh.stage / "result.json").read_bytes() == expected[1]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_an_error_in_one_rank_ends_all_and_the_next_run_repeats_it(fresh: Project) -> None:
    fresh.hardware.write_text("ranks: 2\ncheckpoint_every: 2\n")
    whole = _start(fresh, tune=TUNE)
    said = whole.communicate(timeout=400)[0]
    assert whole.returncode == 0, said
    expected = fresh.losses()
    shutil.rmtree(fresh.stage)

    step = first_use(fresh)
    assert step >= 2
    with damaged(fresh, step) as name:
        process = _start(fresh, tune=TUNE)
        _wait_for_steps(fresh, process, step)
        begun = time.monotonic()
        said = process.communicate(timeout=100)[0]
    assert process.returncode == 1 and time.monotonic() - begun < 40, said
    assert name in said and re.search(r"error: rank \d of 2 failed first", said)
    assert _gone(process.pid, 1)
    assert saved(fresh)[-1] == step // 2 * 2
    again = _start(fresh, tune=TUNE)
    said = again.communicate(timeout=400)[0]
    assert again.returncode == 0 and "resuming at step" in said, said
    assert fresh.losses() == expected
