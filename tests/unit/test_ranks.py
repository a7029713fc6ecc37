"""One, two and more ranks, with and without DeepSpeed: the same steps, whatever holds them."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_models
import tiny_project
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tiny_project import FROZEN, FULL, LORA, TRAINING

import token_data
from rank_trainings import Job, train_all
from shardline.errors import ConfigError
from shardline.families import qwen2_vl as family
from shardline.files import read_json
from shardline.loader import PlanDataset
from shardline.training import stage
from shardline.training.packs import supervised, token_losses
from shardline.training.requirements import check_media
from shardline.training.trainer import PlanTrainer

STEPS = 20
TOLERANCE = 1e-4  # relative, of losses in fp32
OPTIONS = {**token_data.OPTIONS, "task": "chat"}
PRESET = "ranks: {ranks}\ncheckpoint_every: 20\n"
ZERO = PRESET + "deepspeed: config/deepspeed/zero{stage}.json\n"


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job of one process on conversations: a third has a picture, a ninth a video."""
    results = tmp_path_factory.mktemp("ranks") / "results"
    model = tiny_models.build(results / "raw/models/tiny")
    sizes = random.Random(5)
    shapes: list[tuple[int, list[tuple[int, ...]]]] = []
    for n in range(36):
        letters, size = sizes.randrange(1, 40), (56, 28 * sizes.randrange(2, 5))
        media = [size] if n % 3 == 0 else [(*size, 4)] if n % 9 == 1 else []
        shapes.append((letters, media))
    filtered = token_data.write_filtered(results, token_data.talks(shapes))
    manifest = token_data.tokenise(filtered, model, options=OPTIONS)
    for packing in ("step", "flatten", "none"):
        token_data.plan(
            results, [manifest], packing, packing=packing, steps=STEPS, epochs=None, max_length=160
        )
    full = {**FULL, "lr": 3e-3}
    options = {**TRAINING, "tune": dict.fromkeys(TRAINING["tune"], full)}
    return Job(
        work=results.parent / "one",
        preset=PRESET.format(ranks=1),
        options=options,
        plan=results / "plans/demo/step.json",
        results=results,
        model=model,
        lock=tiny_project.lock_model(model),
    )


def of(job: Job, name: str, preset: str, plan: str = "step", **options) -> Job:
    return replace(
        job,
        work=job.work.with_name(name),
        preset=preset,
        plan=job.plan.with_name(f"{plan}.json"),
        options={**job.options, **options},
    )


def rows_of(job: Job, ranks: int, micro_batch: int = 1, complete: bool = False) -> list[list[dict]]:
    """Of each time in the plan, the rows of all ranks."""
    parts = [
        PlanDataset(
            job.results,
            job.plan,
            job.plan.with_suffix(".parquet"),
            family,
            rank=rank,
            ranks=ranks,
            micro_batch=micro_batch,
            complete=complete,
        )
        for rank in range(ranks)
    ]
    return [[part[item] for part in parts] for item in range(len(parts[0]))]


def alone(job: Job) -> list[float]:
    """The losses of a training in this process."""
    shutil.rmtree(job.work, ignore_errors=True)
    job.work.mkdir(parents=True)
    job.work.with_suffix(".yaml").write_text(job.preset)
    stage.train(job.stage(), lambda: "")
    return job.losses()


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_complete_rows_all_have_media_and_each_sample_is_there_once(jobs: Job, ranks: int) -> None:
    times = rows_of(jobs, ranks, complete=True)
    rows = [row for at_once in times for row in at_once]
    assert all(set(row["media_types"]) == {1, 2} for row in rows)
    lent = [row for row in rows if len(row["cu_seq_lens_q"]) - 1 > len(row["samples"])]
    assert lent and any(row["samples"] for row in lent)
    for row in lent:
        start = row["cu_seq_lens_q"][len(row["samples"])]
        assert not (row["labels"][0, start:] != -100).any()
    plain = [rows[0] for rows in rows_of(jobs, 1)]
    assert not all(row["media_types"] for row in plain)
    names = [name for row in rows for name in row["samples"]]
    assert sorted(names) == sorted(name for row in plain for name in row["samples"])
    assert sum(map(len, map(supervised, rows))) == sum(map(len, map(supervised, plain)))


def test_a_plan_without_media_lends_none_and_trains_no_tower(jobs: Job, tmp_path: Path) -> None:
    results = tmp_path / "results"
    talks = token_data.talks([(number % 9 + 1, []) for number in range(12)])
    manifest = token_data.tokenise(
        token_data.write_filtered(results, talks), jobs.model, options=OPTIONS
    )
    plan = token_data.plan(results, [manifest], max_length=64)
    rows = rows_of(replace(jobs, results=results, plan=plan), 2, complete=True)
    assert not any(row["media_types"] for at_once in rows for row in at_once)
    with pytest.raises(ConfigError, match=r"tune\.projector\.mode: 'full', but no sample"):
        check_media(jobs.options["tune"], read_json(plan))
    check_media({**jobs.options["tune"], "projector": FROZEN, "vision": FROZEN}, read_json(plan))


def mean_of_means(self: PlanTrainer, model, inputs, **_) -> torch.Tensor:
    """What must not be: each row counts the same, however many tokens of it are supervised."""
    losses = token_losses(model, self.family, inputs)
    self.meter.add(inputs, losses)
    return losses.mean() / self.args.gradient_accumulation_steps


@pytest.mark.slow
def test_one_curve_however_a_step_is_realised(jobs: Job, monkeypatch) -> None:
    expected = alone(jobs)
    assert expected[-1] < 0.8 * expected[0]
    rows = rows_of(jobs, 2)
    counts = [[len(supervised(row)) for row in at_once] for at_once in rows]
    assert any(first != second for first, second in counts)

    cpu = PRESET.format(ranks=1)
    single = [
        of(jobs, "one-flatten", cpu + "micro_batch: 2\n", "flatten"),
        of(jobs, "one-none", cpu + "micro_batch: 8\n", "none"),
        of(jobs, "one-micro", cpu + "micro_batch: 8\n"),
    ]
    for job in single:
        assert alone(job) == pytest.approx(expected, rel=TOLERANCE), job.work.name

    two = [
        of(jobs, "two", PRESET.format(ranks=2)),
        of(jobs, "two-none", PRESET.format(ranks=2) + "micro_batch: 4\n", "none"),
        *(of(jobs, f"zero{n}", ZERO.format(ranks=2, stage=n)) for n in (1, 2, 3)),
        of(jobs, "zero2-flatten", ZERO.format(ranks=2, stage=2), "flatten"),
        of(jobs, "zero3-none", ZERO.format(ranks=2, stage=3) + "micro_batch: 4\n", "none"),
    ]
    train_all(two, jobs.work.parent)
    curves = {job.work.name: job.losses() for job in two}
    for name, losses in curves.items():
        assert losses == pytest.approx(expected, rel=TOLERANCE), name

    for job in two:
        loaded = [read_json(job.work.with_suffix(f".{rank}.json")) for rank in range(2)]
        saved = read_json(job.work / "final.json")
        assert all(facts["values"] == saved["parameters"] for facts in loaded)
        if job.work.name.startswith("zero3"):
            assert sum(facts["held"] for facts in loaded) < 1.02 * saved["parameters"]
            assert all(facts["at_once"] < 0.3 * saved["parameters"] for facts in loaded)

    finals = [load_file(job.work / "final/model.safetensors") for job in (two[0], two[4])]
    assert finals[0].keys() == finals[1].keys()
    for name, values in finals[0].items():
        torch.testing.assert_close(finals[1][name], values, rtol=0, atol=1e-3)
    family.load_model(two[4].work / "final", torch.float32, "cpu")

    monkeypatch.setattr(PlanTrainer, "compute_loss", mean_of_means)
    wrong = alone(of(jobs, "wrong", cpu))
    assert max(abs(a / b - 1) for a, b in zip(wrong, expected, strict=True)) > 100 * TOLERANCE


@pytest.mark.slow
def test_offloaded_one_rank_s_and_half_precision_trainings_learn_the_same(jobs: Job) -> None:
    expected = alone(jobs)
    offloaded = [
        of(jobs, f"zero{n}-offload", ZERO.format(ranks=2, stage=f"{n}_offload")) for n in (2, 3)
    ]
    half = [
        of(jobs, f"zero{n}-bf16", ZERO.format(ranks=2, stage=n), precision="bf16") for n in (1, 3)
    ]
    train_all([*offloaded, *half], jobs.work.parent)
    one = of(jobs, "zero2-one", ZERO.format(ranks=1, stage=2))
    train_all([one], jobs.work.parent, ranks=1)
    for job in (*offloaded, one):
        assert job.losses() == pytest.approx(expected, rel=TOLERANCE), job.work.name
    for job in half:
        assert job.losses() == pytest.approx(expected, rel=0.1), job.work.name
        trained = load_file(job.work / f"checkpoint-{STEPS}/trained.safetensors")
        rounded = [value.to(torch.bfloat16).float() for value in trained.values()]
        assert {value.dtype for value in trained.values()} == {torch.float32}
        pairs = zip(trained.values(), rounded, strict=True)
        assert not all(torch.equal(*pair) for pair in pairs)


@pytest.mark.slow
def test_an_adapter_trained_with_zero_3_is_whole_and_gives_the_same_logits(jobs: Job) -> None:
    lora = {**LORA, "dropout": 0.0, "lr": 1e-2}
    tune = {"llm": lora, "projector": FULL, "vision": lora}
    job = of(jobs, "adapter", ZERO.format(ranks=2, stage=3), tune=tune)
    same = of(jobs, "adapter-ddp", PRESET.format(ranks=2), tune=tune)
    train_all([same, job], jobs.work.parent)
    row = rows_of(jobs, 1)[0][0]

    def losses(model: torch.nn.Module) -> torch.Tensor:
        with torch.no_grad():
            return token_losses(model.eval(), family, row)

    base = losses(family.load_model(jobs.model, torch.float32, "cpu"))
    found = []
    for one in (job, same):
        model = family.load_model(jobs.model, torch.float32, "cpu")
        model.load_state_dict(load_file(one.work / "final/tuned.safetensors"), strict=False)
        model = PeftModel.from_pretrained(model, one.work / "final")
        found.append(losses(model))
        checkpoint = load_file(one.work / f"checkpoint-{STEPS}/trained.safetensors")
        saved = load_file(one.work / "final/adapter_model.safetensors")
        assert all(value.numel() for value in [*saved.values(), *checkpoint.values()])
        assert (
            sum(value.numel() for value in checkpoint.values())
            == read_json(one.work / "final.json")["trainable_parameters"]
        )
        for name, value in saved.items():
            parts = name.rsplit(".", 1)
            assert torch.equal(value, checkpoint[f"{parts[0]}.default.{parts[1]}"])
    torch.testing.assert_close(found[0], found[1], rtol=TOLERANCE, atol=TOLERANCE)
    assert (found[0] - base).abs().max() > 100 * TOLERANCE
    assert json.loads((job.work / "final/adapter_config.json").read_bytes())["r"] == 4
