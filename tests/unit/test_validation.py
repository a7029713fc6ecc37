"""Validation while training, the checkpoints that it chooses, early stop, and their exports."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_project
import torch
from tiny_project import FROZEN, FULL, TUNE, Project

import export_adapter
import merge_model
import train_stage
from project_root import ROOT
from shardline.errors import ConfigError, DataError, GateError, Interrupted
from shardline.families import qwen2_vl as family
from shardline.files import read_json, sha256_file, write_json
from shardline.loader import PlanDataset
from shardline.training import checkpoints, outcome
from shardline.training.gathered import take_trained
from shardline.training.journal import read_journal
from shardline.training.packs import split, stock_losses
from shardline.training.trainer import PlanTrainer
from shardline.training.tuning import apply_tuning
from shardline.training.validation import LOSS, best, reason_to_stop

STEPS = 12
VALIDATE = {"every": 3, "data": "e", "early_stop": None}
WHOLE = dict.fromkeys(TUNE, FULL)
UNSTEADY = {
    "tune": {module: {**FULL, "lr": 0.15} for module in TUNE},
    "schedule": {"name": "constant", "warmup": 0},
}
"""Loss and validation loss rise again after the second step."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    made = tiny_project.build(tmp_path_factory.mktemp("project"), steps=STEPS)
    manifests = []
    for dataset, count, first in (("e", 7, 30), ("f", 4, 50)):
        drawn = tiny_project.samples(count, dataset, first)
        manifests.append(tiny_project.tokenise(made.results, made.model, drawn))
    batch = {"global_batch": {"samples": 6}, "max_length": 300}
    once = {"steps": None, "epochs": 1.0, "part": "validation"}
    tiny_project.plan(made.results, "s.validation", manifests, **once, **batch)
    return made


class Kept(Project):
    """The project with another stage folder, for a training that several tests read."""

    @property
    def stage(self) -> Path:
        return self.results / "checkpoints/r/kept"


@pytest.fixture(scope="module")
def trained(project: Project) -> Project:
    """A training with validation, all of whose checkpoints are kept."""
    kept = Kept(**vars(project))
    kept.hardware = project.hardware.with_name("all.yaml")
    kept.hardware.write_text("micro_batch: 2\ncheckpoint_every: 3\nkeep_checkpoints: all\n")
    train_stage.main(arguments(kept))
    return kept


def arguments(project: Project, **changes) -> list[str]:
    """Arguments of train_stage for a training that validates."""
    plan = project.plan.with_name("s.validation.json")
    options = {"tune": TUNE, "validate": VALIDATE, **changes}
    return [*project.training(**options), "--validation", str(plan)]


def metric(project: Project, name: str) -> dict[int, float]:
    lines = list(read_journal(project.work))
    found = [(line["step"], line["metrics"][name]) for line in lines if name in line["metrics"]]
    assert len(dict(found)) == len(found), "a step is there twice"
    return dict(found)


def trained_model(project: Project, checkpoint: Path) -> torch.nn.Module:
    """The stage's model with the weights of a checkpoint, built anew."""
    model = apply_tuning(family.load_model(project.model, torch.float32, "cpu"), family, TUNE)
    take_trained(model, checkpoint)
    return model.eval()


def independent_losses(project: Project, model: torch.nn.Module) -> dict[str, float]:
    """Loss of each validation dataset and of all, sample by sample by the stock forward."""
    plan = project.plan.with_name("s.validation.json")
    data = PlanDataset(project.results, plan, plan.with_suffix(".parquet"), family)
    sums: dict[str, list[torch.Tensor]] = {}
    with torch.no_grad():
        for item in range(len(data)):
            row = data[item]
            for name, sample in zip(row["samples"], split(row, family), strict=False):
                losses = stock_losses(model, family, sample).double()
                sums.setdefault(name.partition(":")[0], []).append(losses)
    apart = {name: torch.cat(losses) for name, losses in sums.items()}
    whole = {name: losses.mean().item() for name, losses in apart.items()}
    return whole | {"": torch.cat(list(apart.values())).mean().item()}


def test_validation_changes_no_training(trained: Project, fresh: Project) -> None:
    fresh.hardware.write_text("micro_batch: 2\n")
    train_stage.main(fresh.training(tune=TUNE))
    with_and_without = [metric(one, "loss") for one in (trained, fresh)]
    assert [{step: loss.hex() for step, loss in losses.items()} for losses in with_and_without] == [
        {step: loss.hex() for step, loss in with_and_without[0].items()}
    ] * 2
    weights = [read_json(one.stage / "result.json")["weights"] for one in (trained, fresh)]
    assert [entry["sha256"] for entry in weights[0]] == [entry["sha256"] for entry in weights[1]]


def test_validation_is_the_loss_of_the_checkpoint(trained: Project) -> None:
    result = read_json(trained.stage / "result.json")
    work, losses = trained.work, metric(trained, LOSS)
    assert list(losses) == [3, 6, 9, 12] and losses[12] < losses[3]
    for step in (3, 12):
        expected = independent_losses(trained, trained_model(trained, work / f"checkpoint-{step}"))
        assert losses[step] == pytest.approx(expected[""], rel=1e-6)
        for dataset in ("e", "f"):
            found = metric(trained, f"{LOSS}/{dataset}")[step]
            assert found == pytest.approx(expected[dataset], rel=1e-6)
    lowest = min(losses, key=losses.get)
    assert result["best"] == {"step": lowest, "validation_loss": losses[lowest]}
    assert [entry["step"] for entry in result["checkpoints"]] == [3, 6, 9, 12]
    assert (result["stopped_early"], result["steps"]) == (None, STEPS)
    assert read_json(work / "run.json")["validation"]["datasets"] == ["e", "f"]


STOPPING = {"every": 1, "data": "e", "early_stop": {"patience": 3, "min_delta": 0.0}}


def interrupted(words: list[str], after: float) -> bool:
    """Train, ask to stop so many seconds after the first step; whether that was in time."""
    done = threading.Event()

    def ask() -> None:
        if not done.wait(after):
            os.kill(os.getpid(), signal.SIGTERM)

    waiting = threading.Thread(target=ask)
    begin = PlanTrainer.begin

    def begin_and_wait(trainer: PlanTrainer) -> None:
        waiting.start()
        begin(trainer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PlanTrainer, "begin", begin_and_wait)
        before = signal.signal(signal.SIGTERM, lambda *_: None)  # for one that comes too late
        try:
            train_stage.main(words)
        except Interrupted:
            return True
        finally:
            done.set()
            if waiting.ident:
                waiting.join()
            signal.signal(signal.SIGTERM, before)
    return False


def test_early_stop_and_its_best_checkpoint_survive_interruptions(
    fresh: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh.hardware.write_text("checkpoint_every: 4\nkeep_checkpoints: 1\n")
    words = arguments(fresh, **UNSTEADY, validate=STOPPING)
    train_stage.main(words)
    result, losses = read_json(fresh.stage / "result.json"), metric(fresh, LOSS)
    stopped, lowest = result["steps"], result["best"]["step"]
    assert stopped == lowest + 3 == max(metric(fresh, "loss")) < STEPS
    assert f"lower than the {losses[lowest]:.4f} of step {lowest}" in result["stopped_early"]
    assert [entry["step"] for entry in result["checkpoints"]] == [lowest, stopped]
    assert f"step {stopped}: training ends here" in capsys.readouterr().out
    whole = (fresh.stage / "result.json").read_bytes(), losses, metric(fresh, "loss")

    shutil.rmtree(fresh.stage)
    stops = 0
    while interrupted(words, 0.2 * stops):
        stops += 1
    assert stops
    assert metric(fresh, LOSS) == whole[1] and metric(fresh, "loss") == whole[2]
    assert (fresh.stage / "result.json").read_bytes() == whole[0]

    (fresh.stage / "result.json").unlink()
    (fresh.work / outcome.RECORD).unlink()
    train_stage.main(words)
    assert f"resuming at step {stopped} of {STEPS}" in capsys.readouterr().out
    assert (fresh.stage / "result.json").read_bytes() == whole[0]


@pytest.mark.slow
def test_a_validation_that_was_put_off_comes_first_after_a_resume(fresh: Project) -> None:
    """And once, though the first resumed run is killed right after it."""
    words = arguments(fresh, validate={**VALIDATE, "every": 2})
    train_stage.main(words)
    whole = (fresh.stage / "result.json").read_bytes(), metric(fresh, LOSS)
    shutil.rmtree(fresh.stage)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PlanTrainer, "stop_anywhere", lambda trainer: trainer.state.global_step == 4)
        with pytest.raises(Interrupted):
            train_stage.main(words)
    assert list(metric(fresh, LOSS)) == [2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PlanTrainer, "begin", lambda trainer: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train_stage.main(words)
    assert list(metric(fresh, LOSS)) == [2, 4]
    train_stage.main(words)
    assert metric(fresh, LOSS) == whole[1]
    assert (fresh.stage / "result.json").read_bytes() == whole[0]


def merged(project: Project, **options) -> tuple[Path, dict]:
    """The merged export of the project's training."""
    folder = project.results / "models/merged"
    limits = {"min_visual_tokens": 4, "max_visual_tokens": 64}
    merge_model.main(
        [
            *("--options", json.dumps({"family": "qwen2_vl", **limits, **options})),
            *("--result", str(project.stage / "result.json"), "--model", str(project.model)),
            *("--model-manifest", str(project.lock), "--folder", str(folder)),
            *("--manifest", f"{folder}.json", "--threads", "1"),
        ]
    )
    return folder, read_json(Path(f"{folder}.json"))


def test_a_merged_model_is_of_the_checkpoint_that_it_is_exported_from(trained: Project) -> None:
    folder, last = merged(trained)
    weights = (folder / "model.safetensors").read_bytes()
    folder, same = merged(trained, export_from=f"step:{STEPS}")
    assert (folder / "model.safetensors").read_bytes() == weights
    assert (last["export_from"], last["step"], same["step"]) == ("last", STEPS, STEPS)

    folder, earlier = merged(trained, export_from="step:6")
    assert (earlier["export_from"], earlier["step"]) == ("step:6", 6)
    model = trained_model(trained, trained.work / "checkpoint-6").merge_and_unload()
    found = family.load_model(folder, torch.float32, "cpu").state_dict()
    assert not (folder / "adapter").exists()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6)
    best_step = read_json(trained.stage / "result.json")["best"]["step"]
    assert merged(trained, export_from="best")[1]["step"] == best_step


@pytest.mark.parametrize("tune", [WHOLE, {**TUNE, "projector": FROZEN}])
def test_exports_of_the_last_checkpoint_are_those_of_the_end(fresh: Project, tune: dict) -> None:
    fresh.hardware.write_text("checkpoint_every: 5\nkeep_checkpoints: 1\n")
    train_stage.main([*fresh.training(tune=tune), "--keep-steps", "7"])
    result = read_json(fresh.stage / "result.json")
    assert [entry["step"] for entry in result["checkpoints"]] == [7, STEPS]
    for choice in ("last", f"step:{STEPS}"):
        folder, _ = merged(fresh, export_from=choice)
        expected = folder.with_name("last")
        if choice == "last":
            folder.rename(expected)
    assert (folder / "model.safetensors").read_bytes() == (
        expected / "model.safetensors"
    ).read_bytes()
    shutil.rmtree(expected)
    if result["kind"] == "lora":
        files = []
        for choice in ("last", f"step:{STEPS}", "step:7"):
            adapter = folder.with_name("adapter")
            export_adapter.main(
                [
                    *("--options", json.dumps({"export_from": choice})),
                    *("--result", str(fresh.stage / "result.json"), "--folder", str(adapter)),
                    *("--manifest", f"{adapter}.json"),
                ]
            )
            files.append((adapter / "adapter_model.safetensors").read_bytes())
        assert files[0] == files[1] != files[2]
    with pytest.raises(ConfigError, match=r"'step:3': the checkpoint .* kept are: 7, 12"):
        merged(fresh, export_from="step:3")
    with pytest.raises(ConfigError, match="trained without `validate`"):
        merged(fresh, export_from="best")
    (fresh.work / "checkpoint-7" / outcome.TRAINED).write_bytes(b"damaged")
    with pytest.raises(DataError, match="gone, or not what"):
        merged(fresh, export_from="step:7")


def part_of_plan(plan: Path, name: str, first: int, last: int) -> Path:
    """The steps of a plan from ``first`` to before ``last`` as a plan of its own."""
    table = pq.read_table(plan.with_suffix(".parquet"), partitioning=None)
    steps = table["step"].to_numpy()
    inside = (steps >= first) & (steps < last)
    column = pa.array(steps[inside] - first, table["step"].type)
    kept = table.filter(pa.array(inside)).set_column(0, "step", column)
    part = plan.with_name(f"{name}.json")
    pq.write_table(kept, part.with_suffix(".parquet"))
    summary = read_json(plan) | {"steps": last - first}
    summary["parquet_sha256"] = sha256_file(part.with_suffix(".parquet"))
    write_json(part, summary)
    return part


def test_a_run_that_is_continued_equals_one_that_is_not_interrupted(fresh: Project) -> None:
    """Adam's moments and step counters go over: without them the second half differs at once."""
    options = {"tune": {**WHOLE, "vision": FROZEN}, "schedule": {"name": "constant", "warmup": 0}}
    train_stage.main(fresh.training(**options))
    whole, weights = metric(fresh, "loss"), read_json(fresh.stage / "result.json")["weights"]
    shutil.rmtree(fresh.stage)

    halves = part_of_plan(fresh.plan, "first", 0, 7), part_of_plan(fresh.plan, "second", 7, 12)
    first, second = (
        replace(fresh, plan=plan, parquet=plan.with_suffix(".parquet")) for plan in halves
    )
    train_stage.main(first.training(**options))
    parent = fresh.results / "checkpoints/r/parent"
    shutil.rmtree(parent, ignore_errors=True)
    fresh.stage.rename(parent)
    key = read_json(parent / "result.json")["key"]

    continuing = {**options, "continue_from": {"stage": "parent", "step": "last"}}
    words = [*second.training(**continuing), "--parent", str(parent / "result.json")]
    train_stage.main(words)
    found = metric(second, "loss")
    assert [found[step] for step in sorted(found)] == [whole[step] for step in range(8, 13)]
    result = read_json(second.stage / "result.json")
    assert result["weights"][0]["sha256"] == weights[0]["sha256"]
    assert result["continues"] == {"stage": "parent", "key": key, "step": 7}
    assert read_json(second.work / "run.json")["continues"] == result["continues"]
    shutil.rmtree(second.stage)
    assert interrupted(words, 0.0)
    train_stage.main(words)
    assert metric(second, "loss") == found

    chosen = {**options, "continue_from": {"stage": "parent", "step": 3}}
    with pytest.raises(ConfigError, match=r"continue_from.step = 'step:3'.*kept are: 6, 7"):
        train_stage.main([*second.training(**chosen), *words[-2:]])
    fewer = {**continuing, "tune": {**WHOLE, "projector": FROZEN, "vision": FROZEN}}
    with pytest.raises(GateError, match="its parameters are not those that are trained now"):
        train_stage.main([*second.training(**fewer), *words[-2:]])
    optimizer = parent / "work" / key / "checkpoint-7/optimizer.pt"
    optimizer.write_bytes(b"a pickle from elsewhere")
    shutil.rmtree(second.stage)
    with pytest.raises(DataError, match=r"checkpoint-7: damaged; train parent again"):
        train_stage.main(words)
    preset = fresh.hardware.read_text()
    fresh.hardware.write_text(preset + "deepspeed: zero.json\n")
    with pytest.raises(ConfigError, match="uses DeepSpeed, which takes on no optimiser"):
        train_stage.main(words)


def test_the_best_and_when_to_stop() -> None:
    losses = {10: 2.0, 20: 1.5, 30: 1.45, 40: 1.5, 50: 1.45}
    assert best(losses) == (30, 1.45) and best({}) is None
    assert reason_to_stop(losses, {"patience": 3, "min_delta": 0.0}) == ""
    assert "1.4500 of step 30" in reason_to_stop(losses, {"patience": 2, "min_delta": 0.0})
    assert "1.5000 of step 20" in reason_to_stop(losses, {"patience": 3, "min_delta": 0.1})
    assert reason_to_stop(losses, None) == reason_to_stop({}, {"patience": 1, "min_delta": 0}) == ""


def test_what_is_kept_does_not_depend_on_where_a_run_was_interrupted(tmp_path: Path) -> None:
    def left(steps: list[int], *options) -> list[int]:
        for step in steps:
            folder = tmp_path / f"checkpoint-{step}"
            folder.mkdir(exist_ok=True)
            (folder / "weights").write_bytes(b"1")
            checkpoints.seal(folder, step=step)
            checkpoints.prune(tmp_path, *options)
        found = sorted(checkpoints.step_of(folder) for folder in tmp_path.glob("checkpoint-*"))
        for folder in tmp_path.iterdir():
            shutil.rmtree(folder)
        return found

    assert left([10, 20, 30, 35], 2, 10) == left([7, 10, 13, 20, 30, 34, 35], 2, 10) == [30, 35]
    assert left([10, 15, 20, 30], 1, 10, {15}) == [15, 30]
    assert left([10, 13, 20, 30, 35], "all", 10) == [10, 20, 30, 35]


@pytest.mark.slow
def test_two_ranks_validate_and_stop_as_one_does(fresh: Project) -> None:
    words = arguments(fresh, **UNSTEADY, validate=STOPPING)
    train_stage.main(words)
    alone, result = metric(fresh, LOSS), read_json(fresh.stage / "result.json")
    shutil.rmtree(fresh.stage)
    fresh.hardware.write_text("device: cpu\nranks: 2\ncheckpoint_every: 2\nworkers: 1\n")
    done = subprocess.run(
        [sys.executable, "scripts/train_stage.py", *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = read_json(fresh.stage / "result.json")
    assert metric(fresh, LOSS) == pytest.approx(alone, rel=1e-4)
    assert (found["steps"], found["best"]["step"]) == (result["steps"], result["best"]["step"])
