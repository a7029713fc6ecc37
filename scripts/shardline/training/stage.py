"""One training stage, in one process of it: from the plan and the base to ``final/``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.autograd import set_detect_anomaly
from transformers import TrainingArguments

from shardline.errors import Interrupted
from shardline.files import naming_full_disk, sha256_file, write_json
from shardline.flops import peak_flops, row_work, step_costs
from shardline.merging_family import KEY
from shardline.provenance import provenance
from shardline.training import checkpoints, continued, fitting, gates, outcome
from shardline.training.failures import Work, explained
from shardline.training.gathered import take_trained, trained_tensors, whole_state
from shardline.training.inputs import Stage
from shardline.training.journal import Journal, read_journal
from shardline.training.metrics import StepMeter
from shardline.training.model import tuned_model
from shardline.training.packs import Row
from shardline.training.probe import probe
from shardline.training.quantising import parameter_count
from shardline.training.rows import rows_from
from shardline.training.run import Run
from shardline.training.signals import StopRequest
from shardline.training.speed import speed_up
from shardline.training.trainer import PlanTrainer
from shardline.training.tuning import kind, parameter_groups
from shardline.training.tuning_log import describe, mixed_media
from shardline.training.validation import LOSS, Validation, facts
from shardline.training.weights import save_weights
from shardline.versions import package_versions
from shardline.vision_features import DTYPES

PACKAGES = ("torch", "transformers", "accelerate", "peft", "safetensors")
ALSO_TOLD = ("quantise", KEY)
"""Options that a result names, where a stage has them."""


def train(stage: Stage, stop: StopRequest) -> None:
    """Train or go on training, and leave ``final/`` and ``final.json`` in the work folder.

    Raises:
        Interrupted: asked to stop; a checkpoint of the last finished step is there.
        GateError: packing parity, freeze audit, or a loss that is not finite.
        OutOfMemory: says of what, and what would help.
    """
    run = Run(stage)
    parent = continued.parent_checkpoint(stage)
    work = Work("while the model is loaded")
    with explained(stage, run.family, run.data.plan, run.device, lambda: work):
        checked = probe(stage, run.family, run.data, run.device, run.say) if run.rank == 0 else {}
        if run.ranks == 1 and stop():
            raise Interrupted(f"{stop()}: before the first step; nothing is lost")
        # ZeRO stage 3 loads in parts from here on, for as long as these are there.
        arguments = run.arguments()
        model = _model(run, parent)
        if stage.hardware.auto_fit and _fit(run, model, work):
            arguments = run.arguments()
        speed_up(model, stage.hardware, fixed_length=run.data.steady is not None)
        for line in run.batch():
            run.say(line)
        before = gates.parameter_digests(model, run.family)
        counts = {**_count(model), **fitting.record(stage, *run.size, run.packs)}
        trainer = _trainer(run, model, arguments, stop, parent)

    def stepping() -> Work:
        place = f"in step {trainer.state.global_step + 1} of {run.steps}"
        return Work(place, trainer.meter.row)

    with explained(stage, run.family, run.data.plan, run.device, stepping):
        done = _go(run, trainer, parent)
    if done < run.steps and not trainer.ended:
        place = f"saved at step {done} of {run.steps}" if done else "before the first step"
        raise Interrupted(f"{stop()}: {place} in {stage.work}")
    after = gates.parameter_digests(trainer.model, run.family, trainer.restored)
    audit = gates.freeze_audit(before, after, stage.options["tune"])
    found = {"steps": done, "gates": {**checked, "freeze_audit": audit}, **counts}
    _finish(run, trainer, {**found, **continued.record(stage, parent)})


def _model(run: Run, parent: Path | None) -> torch.nn.Module:
    """The tuned model, with what the extended run has trained of it."""
    options = run.stage.options
    model = tuned_model(run.stage, run.family, run.device)
    if options.get("quantise"):
        run.say("the language model's linear layers are in 4 bits (nf4); exports have them whole")
    for line in describe(model, run.family, options["tune"]):
        run.say(line)
    if run.rank == 0:
        for line in mixed_media(options["tune"], run.data.plan, run.stage.results):
            run.say(line)
    if parent:
        run.say(f"continues {options['continue_from']['stage']} from {parent}")
        take_trained(model, parent)
    return model


def _fit(run: Run, model: torch.nn.Module, work: Work) -> bool:
    """Take as many packs a forward as fit; whether those are others than the preset's."""
    work.place = "before the first step, with one pack a forward"
    size = fitting.fit(run.stage, model, run.family, run.read, run.packs, run.say, work)
    if size == run.size:
        return False
    run.resize(*size)
    return True


def _trainer(
    run: Run,
    model: torch.nn.Module,
    arguments: TrainingArguments,
    stop: StopRequest,
    parent: Path | None,
) -> PlanTrainer:
    stage, options = run.stage, run.stage.options
    trainer = PlanTrainer(
        model,
        arguments,
        family=run.family,
        rows=lambda first: rows_from(run.data, first, stage.hardware),
        meter=_meter(run, model),
        groups=parameter_groups(model, run.family, options["tune"]),
        optimizer_options=options["optimizer"],
        factor=run.factor,
        stop=stop,
        say=run.say,
        look=run.show,
    )
    trainer.keep_checkpoints = stage.hardware.keep_checkpoints
    trainer.named_steps = stage.named_steps
    trainer.parent = parent
    if stage.validation:
        trainer.validation = Validation(stage, run.family, **run.rows)
    return trainer


def _meter(run: Run, model: torch.nn.Module) -> StepMeter:
    """Counts FLOPs where their peak is known; a tower that merges tokens has no count of them."""
    cuda = run.device.type == "cuda"
    peak = peak_flops(torch.cuda.get_device_name(run.device)) if cuda else None
    if not peak or getattr(run.family, "merging", None):
        return StepMeter(run.totals(), run.data.datasets, run.device)
    costs = step_costs(model, run.family)

    def flops(row: Row) -> float:
        return costs.of(row_work(row, run.family))

    return StepMeter(run.totals(), run.data.datasets, run.device, flops, peak)


def _go(run: Run, trainer: PlanTrainer, parent: Path | None) -> int:
    """Train from the newest checkpoint or from the start; the steps that are done then."""
    work = run.stage.work
    found = [checkpoints.newest(work, run.steps) if run.rank == 0 else None]
    if run.ranks > 1:
        torch.distributed.broadcast_object_list(found)
    step, folder = found[0] or (0, None)
    validation, again = trainer.validation, None
    if validation and folder:
        validation.losses = checkpoints.validations(folder)
        trainer.ended = validation.reason_to_stop()
        again = LOSS if validation.due(step) else None
    if folder:
        if step < run.steps and not trainer.ended:
            checkpoints.check_parts(folder, trainer.parts())
        run.say(f"resuming at step {step} of {run.steps}")
    if run.rank == 0:
        write_json(work / "run.json", _record(run, parent))
        trainer.journal = Journal(work, step, again)
    try:
        if step == run.steps or trainer.ended:
            trainer.restore(folder)
        elif not trainer.stop_anywhere():
            with set_detect_anomaly(run.stage.hardware.debug):
                trainer.train(resume_from_checkpoint=str(folder) if folder else None)
            step = trainer.state.global_step
    finally:
        if trainer.journal:
            trainer.journal.close()
    return step


def _finish(run: Run, trainer: PlanTrainer, found: Mapping[str, Any]) -> None:
    """Write the weights and, last, the result; every rank must call this."""
    stage, options = run.stage, run.stage.options
    trained = trainer.restored or None
    if stage.hardware.deepspeed and trained is None:
        trained = trained_tensors(trainer.model, keep=run.rank == 0)
    state = whole_state(trainer.model, trained, keep=run.rank == 0)
    if run.rank > 0:
        return
    unfinished = stage.work / outcome.UNFINISHED
    outcome.discard(unfinished)
    with naming_full_disk(unfinished):
        save_weights(trainer.model, state, unfinished, DTYPES[options["precision"]])
    metrics = [line["metrics"] for line in read_journal(stage.work)]
    losses = [one["loss"] for one in metrics if "loss" in one]
    features = {path.as_posix(): sha256_file(path) for path in stage.features}
    outcome.finish(
        stage.work,
        {
            "stage": "train",
            "recipe": options["recipe"],
            "name": options["stage"],
            "key": stage.work.name,
            "kind": kind(options["tune"]),
            "first_loss": losses[0],
            "final_loss": losses[-1],
            **found,
            "plan_sha256": sha256_file(stage.plan),
            "model_sha256": sha256_file(stage.model_manifest),
            **{key: options[key] for key in ALSO_TOLD if options.get(key)},
            **({"features_sha256": features} if features else {}),
            **_validated(stage, trainer),
            "checkpoints": checkpoints.kept(stage.work, outcome.TRAINED),
            "versions": package_versions(*PACKAGES),
        },
    )
    moved = found["gates"]["freeze_audit"]["moved"]
    run.say(f"trained: loss {losses[0]:.4f} -> {losses[-1]:.4f}; moved: {moved}")


def _validated(stage: Stage, trainer: PlanTrainer) -> dict[str, Any]:
    """What the result says of validation, if the stage validates."""
    if not trainer.validation:
        return {}
    best = trainer.validation.best()
    return {
        "validation": {"every": stage.options["validate"]["every"], **facts(stage.validation)},
        "best": best and {"step": best.step, "validation_loss": best.loss},
        "stopped_early": trainer.ended or None,
    }


def _count(model: torch.nn.Module) -> dict[str, int]:
    """Parameters, those of an adapter included, and how many of them are trained."""
    sizes = [
        (parameter_count(parameter), parameter.requires_grad) for parameter in model.parameters()
    ]
    return {
        "parameters": sum(size for size, _ in sizes),
        "trainable_parameters": sum(size for size, trained in sizes if trained),
    }


def _record(run: Run, parent: Path | None) -> dict[str, Any]:
    """What is trained, as ``run.json`` has it from the start."""
    stage = run.stage
    return {
        "recipe": stage.options["recipe"],
        "stage": stage.options["stage"],
        "key": stage.work.name,
        "options": stage.options,
        "plan": run.summary,
        **({"validation": facts(stage.validation)} if stage.validation else {}),
        "base": sha256_file(stage.model_manifest),
        "code": stage.code,
        "environment": {
            **provenance(),
            "versions": package_versions(*PACKAGES),
            "hardware": stage.hardware.name,
        },
        **continued.record(stage, parent),
        **fitting.record(stage, *run.size, run.packs),
    }
