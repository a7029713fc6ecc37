"""Trainings of two ranks that are killed or asked to stop: they repeat the uninterrupted one."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest
import tiny_project
from tiny_project import TUNE, Project
from watched_trainings import start

from rank_trainings import Job, train_all
from shardline.files import read_json
from shardline.training.journal import read_journal

STEPS, EVERY = 40, 15


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return tiny_project.build(tmp_path_factory.mktemp("project"), steps=STEPS)


class Training:
    """A training of two ranks in a folder of its own, started as often as it takes."""

    def __init__(self, project: Project, name: str, preset: str) -> None:
        folder = project.results.parent / name
        folder.mkdir()
        self.work, self.result = folder / "work", folder / "result.json"
        hardware = folder / "two.yaml"
        hardware.write_text(f"ranks: 2\ncheckpoint_every: {EVERY}\n{preset}")
        words = project.training(tune=TUNE)
        own = {"--hardware": hardware, "--work": self.work, "--result": self.result}
        for option, path in own.items():
            words[words.index(option) + 1] = str(path)
        self.words = words

    def losses(self) -> list[str]:
        """Of each step in the journal, to the last bit."""
        works = self.work.glob("*")
        return [line["metrics"]["loss"].hex() for work in works for line in read_journal(work)]

    def stop(self, number: signal.Signals, step: int) -> str:
        """Start it, and send its whole group a signal after a step; what it said."""
        process = start(self.words, own_group=True)
        while process.poll() is None and len(self.losses()) < step:
            time.sleep(0.01)
        if process.poll() is None:
            os.killpg(process.pid, number)
        said = process.communicate()[0]
        expected = 75 if number == signal.SIGTERM else -number
        assert process.returncode == expected, said
        return said

    def finish(self) -> str:
        """Start it, and wait; what it said."""
        process = start(self.words, own_group=True)
        said = process.communicate()[0]
        assert process.returncode == 0, said
        return said


def test_two_ranks_killed_between_checkpoints_repeat_their_losses(made: Project) -> None:
    training = Training(made, "killed", "")
    training.stop(signal.SIGKILL, EVERY + 3)
    before = training.losses()
    assert EVERY + 3 <= len(before) < 2 * EVERY
    assert f"resuming at step {EVERY} of {STEPS}" in training.finish()
    after = training.losses()
    assert len(after) == STEPS
    assert after[: len(before)] == before


@pytest.mark.slow
def test_with_deepspeed_two_ranks_repeat_the_uninterrupted_training(made: Project) -> None:
    presets = {
        "zero2": "deepspeed: config/deepspeed/zero2.json\n",
        "zero3": "deepspeed: config/deepspeed/zero3.json\nworkers: 2\n",
    }
    whole = [
        Job(
            work=made.results.parent / f"whole-{name}",
            preset=f"ranks: 2\ncheckpoint_every: {EVERY}\n{preset}",
            options={**made.options, "tune": TUNE},
            plan=made.plan,
            results=made.results,
            model=made.model,
            lock=made.lock,
        )
        for name, preset in presets.items()
    ]
    train_all(whole, made.results.parent)
    steps = random.Random(7)
    for job, (name, preset) in zip(whole, presets.items(), strict=True):
        training = Training(made, name, preset)
        training.stop(signal.SIGKILL, steps.randrange(EVERY + 2, EVERY + 9))
        assert "saved at step" in training.stop(signal.SIGTERM, steps.randrange(27, 37))
        assert "resuming at step" in training.finish()
        assert training.losses() == [loss.hex() for loss in job.losses()], name
        expected, found = read_json(job.work / "final.json"), read_json(training.result)
        assert _hashes(found) == _hashes(expected), name

    damaged = next(training.work.glob("*/final/adapter_model.safetensors"))
    damaged.write_bytes(b"damaged")
    assert f"resuming at step {STEPS} of {STEPS}" in training.finish()
    assert _hashes(read_json(training.result)) == _hashes(found)


def _hashes(result: dict) -> list[str]:
    return [entry["sha256"] for entry in result["weights"]]
