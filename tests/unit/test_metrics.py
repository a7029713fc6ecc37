"""What the journal says of a step: figures of known rows, and of a training of two datasets."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_models
import tiny_project
import torch
from tiny_project import TRAINING

import token_data
import train_stage
from shardline.families import qwen2_vl as family
from shardline.files import read_json
from shardline.loader import PlanDataset
from shardline.plan_file import samples_of_step
from shardline.training.journal import read_journal
from shardline.training.metrics import StepMeter, StepTotals
from shardline.training.packs import split, stock_losses

CPU = torch.device("cpu")


def _row(datasets: list[str], supervised: list[int], padding: int = 0) -> dict:
    """Samples of four tokens, the last few of them supervised; padding is a segment of its own."""
    labels = []
    for count in supervised:
        labels += [-100] * (4 - count) + [1] * count
    bounds = [4 * number for number in range(len(datasets) + 1)]
    if padding:
        labels += [-100] * padding
        bounds.append(bounds[-1] + padding)
    return {
        "input_ids": torch.ones(1, len(labels), dtype=torch.int64),
        "labels": torch.tensor([labels]),
        "cu_seq_lens_q": torch.tensor(bounds, dtype=torch.int32),
        "datasets": datasets,
        "packs": [7],
    }


def _alone(own: torch.Tensor) -> torch.Tensor:
    return own


def _slow(rows: list[dict]) -> Iterator[dict]:
    for row in rows:
        time.sleep(0.1)
        yield row


def test_the_figures_of_known_rows() -> None:
    rows = [_row(["b", "a"], [1, 2]), _row(["a"], [3], padding=4), _row([], [], padding=4)]
    meter = StepMeter(
        [StepTotals(1, 1, 5), StepTotals(12, 6, 3)], ["b", "a", "c"], CPU, lambda row: 50.0, 1e3
    )
    taken = meter.take(_slow(rows), 3)
    meter.add(taken[0], torch.tensor([4.0, 1.0, 2.0]))
    meter.add(taken[1], torch.tensor([3.0, 3.0, 6.0]))
    meter.add(taken[2], torch.tensor([]))
    time.sleep(0.1)
    stop, found = meter.finish(2, torch.tensor(2.5), 0.5, {"llm": 0.25}, False, _alone)
    assert not stop
    assert found["loss"] == 2.5 and found["grad_norm"] == 0.5 and found["lr/llm"] == 0.25
    assert found["loss/a"] == 15 / 5 and found["loss/b"] == 4.0 and "loss/c" not in found
    assert found["samples"] == 8 and found["useful_tokens"] == 12 / 20
    seconds = found["seconds"]
    assert 0.4 <= seconds < 5
    assert found["tokens_per_second"] == 12 / seconds
    assert found["samples_per_second"] == 3 / seconds
    assert 0.3 / seconds <= found["data_wait"] < 1
    assert found["mfu"] == pytest.approx(150 / seconds / 1e3)
    assert not any(name.startswith("gpu") for name in found)


def test_the_figures_of_several_ranks_are_put_together() -> None:
    totals, datasets = [StepTotals(16, 6, 4)], ["a", "b"]
    meters = [StepMeter(totals, datasets, CPU) for _ in range(2)]
    shares: list[torch.Tensor] = []

    def remember(own: torch.Tensor) -> torch.Tensor:
        shares.append(own)
        return own

    rows = (_row(["a", "a"], [1, 1]), _row(["b", "a"], [3, 1]))
    losses = ([1.0, 2.0], [4.0, 5.0, 6.0, 9.0])
    for meter, row, values in zip(meters, rows, losses, strict=True):
        meter.take(iter([row]), 1)
        meter.add(row, torch.tensor(values))
        share = torch.tensor(2 * sum(values) / 6)
        meter.finish(1, share, torch.tensor(3.0), {}, meter is meters[1], remember)
    stop, found = meters[0].finish(1, share, 3.0, {}, False, lambda own: torch.cat(shares))
    assert stop
    assert found["loss"] == pytest.approx(27 / 6)
    assert found["loss/a"] == 12 / 3 and found["loss/b"] == 15 / 3
    assert found["useful_tokens"] == 1.0 and found["samples"] == 4


def test_where_a_loss_is_not_finite() -> None:
    meter = StepMeter([StepTotals(16, 6, 4)], ["a", "b"], CPU)
    rows = [_row(["a", "b"], [1, 1]), _row(["a"], [1]) | {"packs": [9]}]
    meter.take(iter(rows), 2)
    meter.add(rows[0], torch.tensor([1.0, math.inf]))
    meter.add(rows[1], torch.tensor([1.0]))
    _, found = meter.finish(1, torch.tensor(math.inf), 1.0, {}, False, _alone)
    assert meter.diverged(found) == " in pack(s) 7 of the plan (b)"


def test_a_training_journals_the_loss_of_each_of_its_datasets(tmp_path: Path) -> None:
    results = tmp_path / "results"
    model = tiny_models.build(results / "raw/models/tiny")
    manifests = [
        token_data.tokenise(
            token_data.write_filtered(results, token_data.screens(count, name, seed), count), model
        )
        for seed, (name, count) in enumerate({"one": 6, "two": 14}.items())
    ]
    plan = token_data.plan(
        results, manifests, steps=3, epochs=None, global_batch={"samples": 4}, max_length=400
    )
    hardware = tmp_path / "cpu.yaml"
    hardware.write_text("micro_batch: 2\n")
    options = {**TRAINING, "seed": 1, "schedule": {"name": "constant", "warmup": 0}}
    project = tiny_project.Project(
        results,
        model,
        tiny_project.lock_model(model),
        plan,
        plan.with_suffix(".parquet"),
        options,
        hardware,
    )
    train_stage.main(project.training())
    first = next(read_journal(project.work))["metrics"]

    base = family.load_model(model, torch.float32, "cpu")
    data = PlanDataset(results, plan, project.parquet, family, micro_batch=100)
    samples = split(data.row(0, 0), family)
    known = samples_of_step(data.plan, 0, results)
    losses: dict[str, list[float]] = {}
    with torch.no_grad():
        for sample, facts in zip(samples, known, strict=True):
            losses.setdefault(facts["dataset"], []).extend(
                stock_losses(base, family, sample).tolist()
            )
    assert set(losses) == {"one", "two"}
    for name, values in losses.items():
        assert first[f"loss/{name}"] == pytest.approx(sum(values) / len(values), rel=1e-5)
    together = [loss for values in losses.values() for loss in values]
    assert first["loss"] == pytest.approx(sum(together) / len(together), rel=1e-5)
    assert 0 < first["data_wait"] < 1 and first["useful_tokens"] == 1.0
    run = read_json(project.work / "run.json")
    assert set(run["environment"]) == {"git", "lock_sha256", "versions", "hardware"}
