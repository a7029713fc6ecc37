"""One training stage, in one process of it: from the plan and the base to ``final/``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.autograd import set_detect_anomaly
from transformers import TrainingArguments

from shardline import registry
from shardline.errors import Interrupted
from shardline.files import naming_full_disk, read_json, sha256_file, write_json
from shardline.hardware import check_devices, forwards
from shardline.loader import PlanDataset
from shardline.merging_family import KEY
from shardline.provenance import provenance
from shardline.training import checkpoints, fitting, gates, outcome
from shardline.training.arguments import prepare, trainer_arguments
from shardline.training.failures import Work, explained
from shardline.training.gathered import trained_tensors, whole_state
from shardline.training.inputs import Stage
from shardline.training.journal import Journal, read_journal
from shardline.training.launch import own_rank
from shardline.training.merging import planned_family
from shardline.training.metrics import StepMeter, StepTotals
from shardline.training.mixed_media import warn_of_mixed_media
from shardline.training.model import tuned_model
from shardline.training.probe import probe
from shardline.training.quantising import parameter_count
from shardline.training.refusals import check_media
from shardline.training.rows import rows_from
from shardline.training.schedule import learning_rate_factor
from shardline.training.signals import StopRequest
from shardline.training.speed import prepare_speed, speed_up
from shardline.training.trainer import PlanTrainer
from shardline.training.tuning import kind, parameter_groups
from shardline.training.tuning_log import describe
from shardline.training.weights import save_weights
from shardline.training.zero_config import deepspeed_config, zero_stage
from shardline.versions import package_versions
from shardline.vision_features import DTYPES

PACKAGES = ("torch", "transformers", "accelerate", "peft", "safetensors")


def train(stage: Stage, stop: StopRequest) -> None:
    """Train or go on training, and leave ``final/`` and ``final.json`` in the work folder.

    Raises:
        Interrupted: asked to stop; a checkpoint of the last finished step is there.
        GateError: packing parity, freeze audit, or a loss that is not finite.
        OutOfMemory: says of what, and what would help.
    """
    options = stage.options
    rank, ranks = own_rank()
    say = _say if rank == 0 else _keep_quiet
    check_devices(stage.hardware, ranks, options["precision"])
    family = registry.load("families", options["family"], options.get("plugins", ()))
    summary = read_json(stage.plan)
    family = planned_family(family, stage, summary)
    steps, packs = summary["steps"], summary["max_packs_per_step"]
    fitting.check(stage.hardware)
    size = forwards(stage.hardware, packs, stage.plan.as_posix())
    factor = learning_rate_factor(options["schedule"], steps)
    check_media(options["tune"], summary)
    config = deepspeed_config(stage.hardware, options, *size)
    prepare_speed(stage.hardware)
    device = prepare(stage, ranks)

    def read(accumulation: int, micro_batch: int) -> PlanDataset:
        return PlanDataset(
            stage.results,
            stage.plan,
            stage.parquet,
            family,
            rank=rank,
            ranks=ranks,
            micro_batch=micro_batch,
            accumulation=accumulation,
            features=stage.features,
            complete=config is not None and _all_take_part(options["tune"], zero_stage(config)),
            steady=stage.hardware.compile != "none",
        )

    def set_up(accumulation: int, micro_batch: int) -> TrainingArguments:
        config = deepspeed_config(stage.hardware, options, accumulation, micro_batch)
        return trainer_arguments(stage, accumulation, micro_batch, steps, config)

    data = read(*size)
    work = Work("while the model is loaded")
    with explained(stage, family, data.plan, device, lambda: work):
        checked = probe(stage, family, data, device, say) if rank == 0 else {}
        if ranks == 1 and stop():
            raise Interrupted(f"{stop()}: before the first step; nothing is lost")
        arguments = set_up(*size)
        model = tuned_model(stage, family, device)
        if options.get("quantise"):
            say("the language model's linear layers are in 4 bits (nf4); exports have them whole")
        for line in describe(model, family, options["tune"]):
            say(line)
        if rank == 0:
            shards = data.plan.summary["shards"]
            for line in warn_of_mixed_media(options["tune"], stage.results, shards):
                say(line)
        if stage.hardware.auto_fit:
            work.place = "before the first step, with one pack a forward"
            asked, size = size, fitting.fit(stage, model, family, read, packs, say, work)
            if size != asked:
                data, arguments = read(*size), set_up(*size)
        speed_up(model, stage.hardware, fixed_length=data.steady is not None)
        zero = f", ZeRO stage {zero_stage(arguments.deepspeed)}" if arguments.deepspeed else ""
        say(
            f"{steps} steps of {summary['global_batch']} in up to {packs} packs = {ranks} rank(s) "
            f"x {size[0]} forward(s) x {size[1]} pack(s){zero}"
        )
        say(
            f"a step has {summary['samples_per_step']['mean']:g} samples and "
            f"{summary['tokens'] / steps:,.0f} tokens on average, over all ranks"
        )
        before = gates.parameter_digests(model, family)
        counts = _count(model)
        meter = StepMeter(_totals(data), data.datasets, device)
        trainer = PlanTrainer(
            model,
            arguments,
            family=family,
            rows=lambda first: rows_from(data, first, stage.hardware),
            meter=meter,
            groups=parameter_groups(model, family, options["tune"]),
            optimizer_options=options["optimizer"],
            factor=factor,
            stop=stop,
            say=say,
            look=partial(_show, rank) if stage.hardware.debug else _pass_over,
        )
    fitted = fitting.record(stage, *size, packs)

    def stepping() -> Work:
        return Work(f"in step {trainer.state.global_step + 1} of {steps}", meter.row)

    with explained(stage, family, data.plan, device, stepping):
        done = _go(stage, trainer, summary, rank, say, fitted)
    if done < steps:
        place = f"saved at step {done} of {steps}" if done else "before the first step"
        raise Interrupted(f"{stop()}: {place} in {stage.work}")
    after = gates.parameter_digests(trainer.model, family, trainer.restored)
    audit = gates.freeze_audit(before, after, options["tune"])
    trained = trainer.restored or None
    if stage.hardware.deepspeed and trained is None:
        trained = trained_tensors(trainer.model, keep=rank == 0)
    state = whole_state(trainer.model, trained, keep=rank == 0)
    if rank == 0:
        unfinished = stage.work / outcome.UNFINISHED
        outcome.discard(unfinished)
        with naming_full_disk(unfinished):
            save_weights(trainer.model, state, unfinished, DTYPES[options["precision"]])
        losses = [line["metrics"]["loss"] for line in read_journal(stage.work)]
        outcome.finish(
            stage.work,
            {
                "stage": "train",
                "recipe": options["recipe"],
                "name": options["stage"],
                "key": stage.work.name,
                "kind": kind(options["tune"]),
                "steps": done,
                "first_loss": losses[0],
                "final_loss": losses[-1],
                "gates": {**checked, "freeze_audit": audit},
                **counts,
                **fitted,
                "plan_sha256": sha256_file(stage.plan),
                "model_sha256": sha256_file(stage.model_manifest),
                **({"quantise": options["quantise"]} if options.get("quantise") else {}),
                **_features(stage),
                **{key: options[key] for key in (KEY,) if key in options},
                "versions": package_versions(*PACKAGES),
            },
        )
        say(f"trained: loss {losses[0]:.4f} -> {losses[-1]:.4f}; moved: {audit['moved']}")


def _go(
    stage: Stage,
    trainer: PlanTrainer,
    summary: Mapping[str, Any],
    rank: int,
    say: Callable[[str], None],
    fitted: Mapping[str, Any],
) -> int:
    """Train from the newest checkpoint or from the start; the steps that are done then."""
    found = [checkpoints.newest(stage.work, summary["steps"]) if rank == 0 else None]
    if trainer.args.world_size > 1:
        torch.distributed.broadcast_object_list(found)
    step, folder = found[0] or (0, None)
    if folder:
        if step < summary["steps"]:
            checkpoints.check_parts(folder, trainer.parts())
        say(f"resuming at step {step} of {summary['steps']}")
    if rank == 0:
        write_json(stage.work / "run.json", {**_record(stage, summary), **fitted})
        trainer.journal = Journal(stage.work, step)
    try:
        if step == summary["steps"]:
            trainer.restore(folder)
        elif not trainer.stop_anywhere():
            with set_detect_anomaly(stage.hardware.debug):
                trainer.train(resume_from_checkpoint=str(folder) if folder else None)
            step = trainer.state.global_step
    finally:
        if trainer.journal:
            trainer.journal.close()
    return step


def _all_take_part(tune: Mapping[str, Any], zero: int) -> bool:
    """Whether DeepSpeed needs each forward to run the vision tower and the projector."""
    return zero == 3 or any(tune[module]["mode"] != "frozen" for module in ("projector", "vision"))


def _totals(data: PlanDataset) -> list[StepTotals]:
    plan = data.plan
    samples = np.diff(plan.pack_starts)
    packs = [slice(*plan.step_starts[step : step + 2]) for step in range(plan.steps)]
    columns = (plan.tokens, plan.supervised, samples)
    return [StepTotals(*(int(column[part].sum()) for column in columns)) for part in packs]


def _count(model: torch.nn.Module) -> dict[str, int]:
    """Parameters, those of an adapter included, and how many of them are trained."""
    sizes = [
        (parameter_count(parameter), parameter.requires_grad) for parameter in model.parameters()
    ]
    return {
        "parameters": sum(size for size, _ in sizes),
        "trainable_parameters": sum(size for size, trained in sizes if trained),
    }


def _record(stage: Stage, summary: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "recipe": stage.options["recipe"],
        "stage": stage.options["stage"],
        "key": stage.work.name,
        "options": stage.options,
        "plan": summary,
        "base": sha256_file(stage.model_manifest),
        "code": stage.code,
        "environment": {
            **provenance(),
            "versions": package_versions(*PACKAGES),
            "hardware": stage.hardware.name,
        },
    }


def _features(stage: Stage) -> dict[str, Any]:
    """What the result says of features, if the stage trains on any."""
    manifests = {path.as_posix(): sha256_file(path) for path in stage.features}
    return {"features_sha256": manifests} if manifests else {}


def _say(line: str) -> None:
    """Print a line, if there still is somewhere to print it: a Ctrl-C ends a pipe's reader too."""
    with contextlib.suppress(BrokenPipeError):
        print(line, flush=True)


def _keep_quiet(line: str) -> None:
    """Ranks above 0 would say the same again."""


def _show(rank: int, row: Mapping[str, Any]) -> None:
    """The row of a step, as the preset's `debug` has it in the log."""
    packs, samples = (", ".join(map(str, row[name])) for name in ("packs", "samples"))
    patches = int(row["image_grid_thw"].prod(1).sum())
    _say(
        f"debug: step {row['step'] + 1}, rank {rank}: pack(s) {packs or 'none'}; samples "
        f"{samples or 'none'}; {row['input_ids'].shape[-1]:,} tokens, {patches:,} patches"
    )


def _pass_over(row: Mapping[str, Any]) -> None:
    """What `_show` is without `debug`."""
