"""What ends a training early, and that the next run repeats the uninterrupted one."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import tiny_project
import torch
from tiny_project import FROZEN, FULL, LORA, Project

import train_stage
from project_root import ROOT
from shardline.errors import ConfigError, DataError, GateError
from shardline.files import read_json
from shardline.plan_file import read_plan
from shardline.token_index import ShardIndex
from shardline.training import checkpoints, failures, fitting, signals, trainer
from shardline.training.journal import read_journal

TUNE = {"llm": LORA, "projector": FULL, "vision": FROZEN}
STEPS = 7
SCRIPT = ROOT / "scripts/train_stage.py"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """Steps of two rows; no checkpoint but the last unless something happens."""
    made = tiny_project.build(tmp_path_factory.mktemp("project"), steps=STEPS, max_length=200)
    assert read_plan(made.plan, made.parquet).summary["max_packs_per_step"] >= 3
    made.hardware.write_text("micro_batch: 2\ncheckpoint_every: 100\n")
    yield made
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def uninterrupted(project: Project) -> tuple[list[str], dict]:
    """Losses and result of a training that nothing happens to."""
    with tiny_project.untrained(project):
        train_stage.main(project.training(tune=TUNE))
        return _losses(project), _result(project)


@pytest.fixture
def fresh(project: Project) -> Iterator[Project]:
    with tiny_project.untrained(project):
        yield project


def _work(project: Project) -> Path:
    (work,) = (project.stage / "work").iterdir()
    return work


def _losses(project: Project) -> list[str]:
    return [line["metrics"]["loss"].hex() for line in read_journal(_work(project))]


def _result(project: Project) -> dict:
    """The result without the checkpoints that are left, which the preset decides."""
    result = read_json(project.stage / "result.json")
    return {key: value for key, value in result.items() if key != "checkpoints"}


def _finish(project: Project, uninterrupted: tuple[list[str], dict]) -> None:
    """The next run ends, and has the losses and the weights of the uninterrupted one."""
    train_stage.main(project.training(tune=TUNE))
    assert (_losses(project), _result(project)) == uninterrupted


def _saved(project: Project) -> list[int]:
    return sorted(
        checkpoints.step_of(folder)
        for folder in _work(project).glob("checkpoint-*")
        if checkpoints.sealed(folder)
    )


@contextmanager
def damaged(project: Project, step: int) -> Iterator[str]:
    """The last sample of a step (from 0) cannot be read for as long as this lasts; its id."""
    plan = read_plan(project.plan, project.parquet)
    place = plan.samples(plan.packs(step)[-1])[-1]
    shard = plan.summary["shards"][place.shard]
    index = ShardIndex(project.results / shard["index"], shard["index_sha256"])
    tar = project.results / shard["path"]
    offset, size = index.places(place.row)["labels.npy"]
    whole = tar.read_bytes()
    tar.write_bytes(whole[:offset] + bytes(size) + whole[offset + size :])
    try:
        yield index.ids[place.row].as_py()
    finally:
        tar.write_bytes(whole)


def _first_use(project: Project) -> int:
    """A step whose last sample is in no step before it, as late as there is one."""
    plan = read_plan(project.plan, project.parquet)
    seen: set[tuple[int, int]] = set()
    found = 0
    for step in range(plan.steps):
        places = [(p.shard, p.row) for pack in plan.packs(step) for p in plan.samples(pack)]
        if places[-1] not in seen:
            found = step
        seen.update(places)
    return found


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sample_that_is_mended_later_costs_no_step(
    fresh: Project, uninterrupted, workers: int
) -> None:
    fresh.hardware.write_text(fresh.hardware.read_text() + f"workers: {workers}\n")
    step = _first_use(fresh)
    assert step >= 2
    with damaged(fresh, step) as name, pytest.raises(DataError, match=re.escape(name)):
        train_stage.main(fresh.training(tune=TUNE))
    assert _saved(fresh) == [step]
    assert len(_losses(fresh)) == step
    _finish(fresh, uninterrupted)


def _failing(
    monkeypatch: pytest.MonkeyPatch, module, when: Callable[[int, dict], Exception | None]
) -> None:
    """Let the forward of a module's rows fail; ``when`` gets the call's number and the row."""
    real, calls = module.token_losses, iter(range(10_000))

    def forward(model, family, row):
        losses = real(model, family, row)
        if error := when(next(calls), row):
            raise error
        return losses

    monkeypatch.setattr(module, "token_losses", forward)


def test_no_memory_in_the_middle_of_a_step_names_the_pack_and_what_would_fit(
    fresh: Project, uninterrupted, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict] = []

    def fourth_step(number: int, row: dict) -> Exception | None:
        seen.append(row)
        return torch.OutOfMemoryError("CUDA out of memory.") if number == 7 else None

    with monkeypatch.context() as patch:
        _failing(patch, trainer, fourth_step)
        with pytest.raises(failures.OutOfMemory) as caught:
            train_stage.main(fresh.training(tune=TUNE))
    row, said = seen[-1], str(caught.value)
    assert row["step"] == 3 and seen[-2]["step"] == 3
    assert f"in step 4 of {STEPS}" in said and fresh.parquet.as_posix() in said
    assert f"pack(s) {', '.join(map(str, row['packs']))} of" in said
    assert row["samples"][0] in said and f"{row['input_ids'].shape[1]} tokens" in said
    assert re.search(r"\d patches; peak [\d.,]+ [GM]B of", said)
    assert "gradient_checkpointing: true (" in said and "\n" not in said
    assert _saved(fresh) == [3]
    _finish(fresh, uninterrupted)


def test_an_error_in_the_optimiser_leaves_the_checkpoint_before_it(
    fresh: Project, uninterrupted, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh.hardware.write_text("micro_batch: 2\ncheckpoint_every: 2\n")
    real, calls = torch.optim.AdamW.step, iter(range(100))

    def step(self, *args, **options):
        done = real(self, *args, **options)
        if next(calls) == 4:
            raise RuntimeError("in the optimiser")
        return done

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        with pytest.raises(RuntimeError, match="in the optimiser"):
            train_stage.main(fresh.training(tune=TUNE))
    assert _saved(fresh) == [2, 4]
    _finish(fresh, uninterrupted)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("x"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_is_no_memory(error: Exception, expected: bool) -> None:
    assert failures.out_of_memory(error) is expected


def _too_long(limit: int) -> Callable[[int, dict], Exception | None]:
    def when(number: int, row: dict) -> Exception | None:
        long = row["input_ids"].shape[1] > limit
        return torch.OutOfMemoryError("CUDA out of memory.") if long else None

    return when


def test_auto_fit_takes_smaller_micro_batches_and_goes_on_with_them(
    fresh: Project, uninterrupted, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    fresh.hardware.write_text("micro_batch: 4\nauto_fit: true\ncheckpoint_every: 3\n")
    for module in (fitting, trainer):
        _failing(monkeypatch, module, _too_long(400))
    train_stage.main(fresh.training(tune=TUNE))
    said = capsys.readouterr().out
    assert "auto_fit: " in said and "do not fit; " in said
    packs = read_plan(fresh.plan, fresh.parquet).summary["max_packs_per_step"]
    fitted = read_json(_work(fresh) / "run.json")["fitted"]
    assert fitted == {
        "asked": 4,
        "ranks": 1,
        "micro_batch": 2,
        "accumulation": -(-packs // 2),
    }
    assert read_json(fresh.stage / "result.json")["fitted"] == fitted
    assert _losses(fresh) == uninterrupted[0]

    # More memory now: going on, it still takes the rows that it began with.
    monkeypatch.undo()
    (_work(fresh) / "final.json").unlink()
    shutil.rmtree(_work(fresh) / f"checkpoint-{STEPS}")
    train_stage.main(fresh.training(tune=TUNE))
    assert "resuming at step 6" in capsys.readouterr().out
    assert _losses(fresh) == uninterrupted[0]
    assert read_json(_work(fresh) / "run.json")["fitted"] == fitted


def test_auto_fit_says_when_a_single_pack_is_too_much(
    fresh: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh.hardware.write_text("micro_batch: 4\nauto_fit: true\n")
    _failing(monkeypatch, fitting, _too_long(10))
    with pytest.raises(failures.OutOfMemory, match=r"before the first step.* in pack\(s\) \d+ of"):
        train_stage.main(fresh.training(tune=TUNE))


def test_auto_fit_does_not_go_with_zero_3(fresh: Project, tmp_path: Path) -> None:
    config = tmp_path / "zero3.json"
    config.write_text('{"zero_optimization": {"stage": 3}}')
    fresh.hardware.write_text(f"auto_fit: true\ndeepspeed: {config}\n")
    with pytest.raises(ConfigError, match=r"auto_fit: true does not go with ZeRO stage 3"):
        fitting.check(train_stage.load_hardware(fresh.hardware))


@pytest.mark.slow
def test_debug_changes_nothing_but_the_log(fresh: Project, uninterrupted, capsys) -> None:
    fresh.hardware.write_text(fresh.hardware.read_text() + "debug: true\n")
    before = os.environ.pop("CUDA_LAUNCH_BLOCKING", None)
    try:
        train_stage.main(fresh.training(tune=TUNE))
        assert os.environ["CUDA_LAUNCH_BLOCKING"] == "1"
    finally:
        os.environ.pop("CUDA_LAUNCH_BLOCKING", None)
        if before is not None:
            os.environ["CUDA_LAUNCH_BLOCKING"] = before
    assert not torch.is_anomaly_enabled()
    assert _losses(fresh) == uninterrupted[0]
    plan = read_plan(fresh.plan, fresh.parquet)
    lines = re.findall(
        r"debug: step (\d+), rank 0: pack\(s\) ([\d, ]+); samples (.+); [\d,]+ tokens, [\d,]+ pat",
        capsys.readouterr().out,
    )
    packs = [(int(step) - 1, int(pack)) for step, some, _ in lines for pack in some.split(", ")]
    assert packs == [(step, pack) for step in range(STEPS) for pack in plan.packs(step)]
    assert sum(names.count(",") + 1 for *_, names in lines) == plan.summary["samples"]


def test_a_loss_that_is_not_finite_names_packs_and_dataset(
    fresh: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, rows = trainer.token_losses, []

    def forward(model, family, row):
        rows.append(row)
        losses = real(model, family, row)
        return losses * float("nan") if len(rows) == 4 else losses

    monkeypatch.setattr(trainer, "token_losses", forward)
    with pytest.raises(GateError) as caught:
        train_stage.main(fresh.training(tune=TUNE))
    packs = ", ".join(map(str, rows[3]["packs"]))
    assert f"step 2: loss nan, gradient norm nan in pack(s) {packs} of the plan (d)" in str(
        caught.value
    )
    assert _saved(fresh) == [] and len(_losses(fresh)) == 1


def _start(project: Project, **changes) -> subprocess.Popen[str]:
    """The program as its rule runs it, in a process group of its own."""
    return subprocess.Popen(
        [
            *("bash", "-c", 'set -o pipefail; "$@" 2>&1 | tee "$LOG"', "bash"),
            *(sys.executable, str(SCRIPT), *project.training(**changes)),
        ],
        cwd=ROOT,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "LOG": str(project.results / "log"),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


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


@pytest.fixture(scope="module")
def longer(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Enough steps to be interrupted anywhere."""
    made = tiny_project.build(tmp_path_factory.mktemp("longer"), steps=40, max_length=200)
    made.hardware.write_text("micro_batch: 2\ncheckpoint_every: 5\nworkers: 2\n")
    return made


@pytest.fixture
def fresh_longer(longer: Project) -> Iterator[Project]:
    with tiny_project.untrained(longer):
        yield longer


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR1, marks=pytest.mark.slow),
    ],
)
def test_a_signal_to_the_whole_group_saves_with_two_loader_processes(
    fresh_longer: Project, number: signal.Signals
) -> None:
    """As a terminal's Ctrl-C, or a batch system that stops a job: the log's pipe ends too."""
    process = _start(fresh_longer, tune=TUNE)
    _wait_for_steps(fresh_longer, process, 3)
    os.killpg(process.pid, number)
    said = process.communicate(timeout=60)[0]
    assert "Traceback" not in said and "killed by signal" not in said
    assert _gone(process.pid)
    steps = len(_losses(fresh_longer))
    assert 3 <= steps < 40 and steps in _saved(fresh_longer), said


@pytest.mark.slow
def test_a_second_ctrl_c_ends_at_once_and_in_one_line(fresh_longer: Project) -> None:
    """While the model is loaded the first is only noted; the second is not waited for."""
    process = _start(fresh_longer, tune=TUNE)
    while not list((fresh_longer.stage / "work").glob("*/lease")):
        time.sleep(0.01)
    time.sleep(1.0)
    (python,) = [pid for pid in _members(process.pid) if _program(pid)]
    os.kill(python, signal.SIGINT)
    time.sleep(signals.ECHO + 0.2)
    os.kill(python, signal.SIGINT)
    said = process.communicate(timeout=60)[0]
    assert "Traceback" not in said and _gone(process.pid)
    assert process.returncode == 75 if "before the first step" in said else 130, said


def _program(pid: int) -> bool:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return b"bash" not in words[0] and str(SCRIPT).encode() in words


@pytest.mark.slow
def test_a_signal_while_the_model_is_loaded_ends_before_the_first_step(
    fresh_longer: Project,
) -> None:
    process = _start(fresh_longer, tune=TUNE)
    while not list((fresh_longer.stage / "work").glob("*/lease")):
        time.sleep(0.01)
    time.sleep(0.5)
    (python,) = [pid for pid in _members(process.pid) if _program(pid)]
    os.kill(python, signal.SIGTERM)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 75 and "stopped: SIGTERM: before the first step" in said, said
    assert "step 1/" not in said


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("workers", [0, 2])
def test_kills_and_stops_at_random_steps_change_no_loss(
    fresh_longer: Project, workers: int
) -> None:
    """LoRA dropout on; at least one kill falls between two checkpoints."""
    preset = f"micro_batch: 2\ncheckpoint_every: 5\nworkers: {workers}\n"
    fresh_longer.hardware.write_text(preset)
    train_stage.main(fresh_longer.training(tune=TUNE))
    expected = _losses(fresh_longer), (fresh_longer.stage / "result.json").read_bytes()
    shutil.rmtree(fresh_longer.stage)

    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)
    steps = [chance.randrange(low, low + 8) for low in (2, 10, 18, 26)]
    numbers = [signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGTERM]
    between = False
    for step, number in zip(steps, numbers, strict=True):
        process = _start(fresh_longer, tune=TUNE)
        _wait_for_steps(fresh_longer, process, step)
        os.killpg(process.pid, number)
        said = process.communicate(timeout=120)[0]
        assert _gone(process.pid, 60)  # the training outlives its shell and its log
        print(f"{number.name} at step {len(_losses(fresh_longer))}, saved: {_saved(fresh_longer)}")
        between |= len(_losses(fresh_longer)) not in _saved(fresh_longer)
        if number == signal.SIGTERM:
            assert len(_losses(fresh_longer)) in _saved(fresh_longer), said
    assert not (fresh_longer.stage / "result.json").exists()
    if not between:  # one more, in the middle of two checkpoints
        process = _start(fresh_longer, tune=TUNE)
        _wait_for_steps(fresh_longer, process, 37)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=120)
        assert _gone(process.pid)
    train_stage.main(fresh_longer.training(tune=TUNE))
    assert _losses(fresh_longer) == expected[0]
    assert (fresh_longer.stage / "result.json").read_bytes() == expected[1]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_an_error_in_one_rank_ends_all_and_the_next_run_repeats_it(fresh_longer: Project) -> None:
    fresh_longer.hardware.write_text("ranks: 2\ncheckpoint_every: 2\n")
    whole = _start(fresh_longer, tune=TUNE)
    said = whole.communicate(timeout=400)[0]
    assert whole.returncode == 0, said
    expected = _losses(fresh_longer)
    shutil.rmtree(fresh_longer.stage)

    step = _first_use(fresh_longer)
    assert step >= 2
    with damaged(fresh_longer, step) as name:
        process = _start(fresh_longer, tune=TUNE)
        _wait_for_steps(fresh_longer, process, step)
        begun = time.monotonic()
        said = process.communicate(timeout=100)[0]
    assert process.returncode == 1 and time.monotonic() - begun < 40, said
    assert name in said and re.search(r"error: rank \d of 2 failed first", said)
    assert _gone(process.pid, 1)
    assert _saved(fresh_longer)[-1] == step // 2 * 2
    again = _start(fresh_longer, tune=TUNE)
    said = again.communicate(timeout=400)[0]
    assert again.returncode == 0 and "resuming at step" in said, said
    assert _losses(fresh_longer) == expected
