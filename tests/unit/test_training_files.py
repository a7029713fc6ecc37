"""Journal, checkpoints, lease, schedule and work key: what surrounds a training on disk."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import threading
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from shardline import lease
from shardline.errors import ConfigError
from shardline.files import write_json
from shardline.training import checkpoints
from shardline.training.journal import Journal, read_journal
from shardline.training.schedule import learning_rate_factor, warmup_steps
from shardline.training.workkey import work_key


def _fill(journal: Journal, steps: range) -> None:
    for step in steps:
        journal.add(step, {"loss": 1 / step, "lr/llm": 0.1})
    journal.close()


def _events(folder: Path) -> list[tuple[int, str, float]]:
    (file,) = (folder / "tensorboard").iterdir()
    return [
        (event.step, value.tag, round(value.tensor.float_val[0], 6))
        for event in EventFileLoader(str(file)).Load()
        for value in event.summary.value
    ]


def test_a_resumed_journal_has_every_step_once(tmp_path: Path) -> None:
    _fill(Journal(tmp_path), range(1, 6))
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "metr')  # killed while writing
    _fill(Journal(tmp_path, resumed=3), range(4, 7))
    assert [line["step"] for line in read_journal(tmp_path)] == [1, 2, 3, 4, 5, 6]
    events = _events(tmp_path)
    assert [step for step, tag, _ in events if tag == "loss"] == [1, 2, 3, 4, 5, 6]
    assert (2, "loss", 0.5) in events


def test_a_validation_that_comes_again_is_cut_from_the_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for step in (1, 2):
        journal.add(step, {"loss": 1 / step})
        journal.add(step, {"validation/loss": 2 / step})
    journal.close()
    Journal(tmp_path, 2).close()
    assert len(list(read_journal(tmp_path))) == 4
    Journal(tmp_path, 2, again="validation/loss").close()
    assert [next(iter(line["metrics"])) for line in read_journal(tmp_path)] == [
        *("loss", "validation/loss", "loss")
    ]


def test_a_line_is_readable_as_soon_as_it_is_added(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.add(1, {"loss": 2.5})
    (line,) = read_journal(tmp_path)
    assert line["metrics"] == {"loss": 2.5}
    assert _events(tmp_path) == [(1, "loss", 2.5)]
    journal.close()


def test_no_journal_is_an_empty_one(tmp_path: Path) -> None:
    assert list(read_journal(tmp_path)) == []


def _checkpoint(work: Path, step: int) -> Path:
    folder = work / f"checkpoint-{step}"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner/weights").write_bytes(bytes([step]) * 10)
    checkpoints.seal(folder, step=step)
    return folder


def test_the_newest_whole_checkpoint_is_found_and_broken_or_later_ones_go(tmp_path: Path) -> None:
    whole = _checkpoint(tmp_path, 8)
    changed = _checkpoint(tmp_path, 9)
    (changed / "inner/weights").write_bytes(b"0123456789")
    cut = _checkpoint(tmp_path, 10)
    (cut / "inner/weights").write_bytes(b"")
    unsealed = _checkpoint(tmp_path, 11)
    (unsealed / checkpoints.COMPLETE).unlink()
    _checkpoint(tmp_path, 21)
    assert checkpoints.newest(tmp_path, 20) == (8, whole)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["checkpoint-8"]


def test_no_checkpoint(tmp_path: Path) -> None:
    assert checkpoints.newest(tmp_path, 9) is None


def test_the_last_two_are_kept_by_number(tmp_path: Path) -> None:
    for step in (2, 10, 9):
        _checkpoint(tmp_path, step)
    checkpoints.prune(tmp_path)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-9"]


def _hold(folder: Path, held, release) -> None:
    with lease.lease(folder / "lease"):
        held.set()
        release.wait(30)


def test_a_second_writer_waits_and_says_for_whom(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    held, release = context.Event(), context.Event()
    orphan = context.Process(target=_hold, args=(tmp_path / "key", held, release))
    orphan.start()
    assert held.wait(30)
    said: list[str] = []
    acquired = threading.Event()

    def wait() -> None:
        with lease.lease(tmp_path / "key" / "lease", said.append):
            acquired.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert not acquired.wait(1.5)
    assert f"process {orphan.pid} on " in said[0]
    assert len(said) == 1
    orphan.kill()  # a lock without a living owner is free
    waiting.join(30)
    assert acquired.is_set()


def test_a_child_keeps_the_lease_of_a_killed_parent(tmp_path: Path) -> None:
    with lease.lease(tmp_path / "lease") as held:
        inherited = os.dup(held)
    other = os.open(tmp_path / "lease", os.O_RDWR)
    with pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(inherited)
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)


@pytest.mark.parametrize(("warmup", "steps", "expected"), [(0, 1, 0), (0.1, 50, 5), (7, 8, 7)])
def test_warmup_is_a_share_or_steps(warmup: float, steps: int, expected: int) -> None:
    assert warmup_steps(warmup, steps) == expected


@pytest.mark.parametrize(("warmup", "steps"), [(100, 100), (0.999, 3), (-1, 10), (2.5, 10)])
def test_a_warmup_that_does_not_fit_is_an_error(warmup: float, steps: int) -> None:
    with pytest.raises(ConfigError, match=r"schedule\.warmup"):
        warmup_steps(warmup, steps)


def test_the_curves() -> None:
    cosine = learning_rate_factor({"name": "cosine", "warmup": 3}, 13)
    values = [cosine(step) for step in range(13)]
    assert values[:4] == [0.25, 0.5, 0.75, 1.0]
    assert values[8] == pytest.approx(0.5)
    assert 0 < values[12] < 0.05
    linear = learning_rate_factor({"name": "linear", "warmup": 0}, 4)
    assert [linear(step) for step in range(4)] == [1.0, 0.75, 0.5, 0.25]
    constant = learning_rate_factor({"name": "constant", "warmup": 1}, 4)
    assert [constant(step) for step in range(4)] == [0.5, 1.0, 1.0, 1.0]
    with pytest.raises(ConfigError, match="'exponential' is not one of constant, cosine, linear"):
        learning_rate_factor({"name": "exponential"}, 4)


def test_the_key_follows_all_that_shapes_a_result(tmp_path: Path) -> None:
    plan, model = tmp_path / "plan.json", tmp_path / "model.json"
    write_json(plan, {"a": 1})
    write_json(model, {"b": 1})
    options = {"llm": {"lr": 1e-3}, "vision": {"lr": 2e-3}}
    key = work_key(options, plan, model, "c")
    assert work_key(json.loads(json.dumps(options)), plan, model, "c") == key
    swapped = {"llm": options["vision"], "vision": options["llm"]}
    assert work_key(swapped, plan, model, "c") != key
    assert work_key(options, plan, model, "d") != key
    assert work_key(options, model, plan, "c") != key
    others = [{name: [plan]} for name in ("features", "validation", "parent")]
    keys = [work_key(options, plan, model, "c", **other) for other in others]
    assert len({key, *keys}) == 4
    write_json(plan, {"a": 2})
    assert work_key(options, plan, model, "c") != key
