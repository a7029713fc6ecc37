"""Errors that end a training, and that the next run repeats the uninterrupted one."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_project
import torch
from tiny_project import TUNE, Project
from watched_trainings import damaged, first_use, saved

import train_stage
from shardline.errors import ConfigError, DataError, GateError
from shardline.files import read_json
from shardline.plan_file import read_plan
from shardline.training import failures, fitting, trainer

STEPS = 7


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Steps of two rows; no checkpoint but the last unless something happens."""
    made = tiny_project.build(tmp_path_factory.mktemp("project"), steps=STEPS, max_length=200)
    assert read_plan(made.plan, made.parquet).summary["max_packs_per_step"] >= 3
    made.hardware.write_text("micro_batch: 2\ncheckpoint_every: 100\n")
    return made


@pytest.fixture(scope="module")
def uninterrupted(project: Project) -> tuple[list[str], dict]:
    """Losses and result of a training that nothing happens to."""
    with tiny_project.untrained(project):
        train_stage.main(project.training(tune=TUNE))
        return project.losses(), _result(project)


def _result(project: Project) -> dict:
    """The result without the checkpoints that are left, which the preset decides."""
    result = read_json(project.stage / "result.json")
    return {key: value for key, value in result.items() if key != "checkpoints"}


def _finish(project: Project, uninterrupted: tuple[list[str], dict]) -> None:
    """The next run ends, and has the losses and the weights of the uninterrupted one."""
    train_stage.main(project.training(tune=TUNE))
    assert (project.losses(), _result(project)) == uninterrupted


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sample_that_is_mended_later_costs_no_step(
    fresh: Project, uninterrupted, workers: int
) -> None:
    fresh.hardware.write_text(fresh.hardware.read_text() + f"workers: {workers}\n")
    step = first_use(fresh)
    assert step >= 2
    with damaged(fresh, step) as name, pytest.raises(DataError, match=re.escape(name)):
        train_stage.main(fresh.training(tune=TUNE))
    assert saved(fresh) == [step]
    assert len(fresh.losses()) == step
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
    assert saved(fresh) == [3]
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
    assert saved(fresh) == [2, 4]
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
    fitted = read_json(fresh.work / "run.json")["fitted"]
    assert fitted == {
        "asked": 4,
        "ranks": 1,
        "micro_batch": 2,
        "accumulation": -(-packs // 2),
    }
    assert read_json(fresh.stage / "result.json")["fitted"] == fitted
    assert fresh.losses() == uninterrupted[0]

    # More memory now: going on, it still takes the rows that it began with.
    monkeypatch.undo()
    (fresh.work / "final.json").unlink()
    shutil.rmtree(fresh.work / f"checkpoint-{STEPS}")
    train_stage.main(fresh.training(tune=TUNE))
    assert "resuming at step 6" in capsys.readouterr().out
    assert fresh.losses() == uninterrupted[0]
    assert read_json(fresh.work / "run.json")["fitted"] == fitted


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
        train_stage.main(fresh.training())


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
    assert fresh.losses() == uninterrupted[0]
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
    assert saved(fresh) == [] and len(fresh.losses()) == 1
