"""One training stage, in one process of it: from the plan and the base to ``final/``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shardline import registry
from shardline.errors import Interrupted
from shardline.files import naming_full_disk, read_json, sha256_file, write_json
from shardline.hardware import forwards
from shardline.loader import PlanDataset
from shardline.training import checkpoints, gates, outcome
from shardline.training.arguments import prepare, trainer_arguments
from shardline.training.continued import parent_checkpoint, record
from shardline.training.inputs import Stage
from shardline.training.journal import Journal, read_journal
from shardline.training.launch import own_rank
from shardline.training.model import tuned_model
from shardline.training.probe import probe
from shardline.training.rows import rows_from
from shardline.training.schedule import learning_rate_factor
from shardline.training.signals import StopRequest
from shardline.training.trainer import PlanTrainer, StepTotals
from shardline.training.tuning import describe, kind, parameter_groups
from shardline.training.validation import LOSS, Losses, Validation, facts, reason_to_stop
from shardline.training.weights import save_weights, take_trained
from shardline.versions import package_versions
from shardline.vision_features import DTYPES

PACKAGES = ("torch", "transformers", "accelerate", "peft", "safetensors")


def train(stage: Stage, stop: StopRequest) -> None:
    """Train or go on training, and leave ``final/`` and ``final.json`` in the work folder.

    Raises:
        Interrupted: asked to stop; a checkpoint of the last finished step is there.
        GateError: packing parity, freeze audit, or a loss that is not finite.
    """
    options = stage.options
    rank, ranks = own_rank()
    say = _say if rank == 0 else _keep_quiet
    family = registry.load("families", options["family"], options.get("plugins", ()))
    summary = read_json(stage.plan)
    steps, packs = summary["steps"], summary["max_packs_per_step"]
    accumulation, micro_batch = forwards(stage.hardware, packs, stage.plan.as_posix())
    factor = learning_rate_factor(options["schedule"], steps)
    say(
        f"{steps} steps of {summary['global_batch']} in up to {packs} packs = {ranks} rank(s) x "
        f"{accumulation} forward(s) x {micro_batch} pack(s)"
    )
    device = prepare(stage, ranks)
    data = PlanDataset(
        stage.results,
        stage.plan,
        stage.parquet,
        family,
        rank=rank,
        ranks=ranks,
        micro_batch=micro_batch,
        accumulation=accumulation,
        features=stage.features,
    )
    parent = parent_checkpoint(stage)
    checked = probe(stage, family, data, device, say) if rank == 0 else {}
    arguments = trainer_arguments(stage, accumulation, steps)
    model = tuned_model(stage, family, device)
    for line in describe(model, family, options["tune"]):
        say(line)
    if parent:
        say(f"continues {stage.options['continue_from']['stage']} from {parent}")
        take_trained(model, parent)
    before = gates.parameter_digests(model, family)
    counts = _count(model)
    trainer = PlanTrainer(
        model,
        arguments,
        family=family,
        rows=lambda first: rows_from(data, first, stage.hardware),
        totals=_totals(data),
        groups=parameter_groups(model, family, options["tune"]),
        optimizer_options=options["optimizer"],
        factor=factor,
        stop=stop,
        say=say,
    )
    trainer.keep_checkpoints = stage.hardware.keep_checkpoints
    trainer.named_steps = stage.named_steps
    trainer.parent = parent
    if stage.validation:
        trainer.validation = Validation(stage, family)
    done = _go(stage, trainer, parent, summary, rank, say)
    if done < steps and not trainer.ended:
        raise Interrupted(f"{stop()}: saved at step {done} of {steps} in {stage.work}")
    after = gates.parameter_digests(trainer.model, family)
    audit = gates.freeze_audit(before, after, options["tune"])
    state = trainer.whole_state()
    if rank == 0:
        unfinished = stage.work / outcome.UNFINISHED
        outcome.discard(unfinished)
        with naming_full_disk(unfinished):
            save_weights(trainer.model, state, unfinished, DTYPES[options["precision"]])
        metrics = [line["metrics"] for line in read_journal(stage.work)]
        losses = [found["loss"] for found in metrics if "loss" in found]
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
                "plan_sha256": sha256_file(stage.plan),
                "model_sha256": sha256_file(stage.model_manifest),
                **_features(stage),
                **_validated(stage, trainer),
                **record(stage, parent),
                "checkpoints": checkpoints.kept(stage.work, outcome.TRAINED),
                "versions": package_versions(*PACKAGES),
            },
        )
        say(f"trained: loss {losses[0]:.4f} -> {losses[-1]:.4f}; moved: {audit['moved']}")


def _go(
    stage: Stage,
    trainer: PlanTrainer,
    parent: Path | None,
    summary: Mapping[str, Any],
    rank: int,
    say: Callable[[str], None],
) -> int:
    """Train from the newest checkpoint or from the start; the steps that are done then."""
    # DeepSpeed loads a checkpoint only to train on: its last one, of no use then, is done again.
    over = 1 if stage.hardware.deepspeed else 0
    found = [_newest(stage, summary["steps"], over) if rank == 0 else None]
    if trainer.args.world_size > 1:
        torch.distributed.broadcast_object_list(found)
    step, folder = found[0] or (0, None)
    validation, again = trainer.validation, None
    if validation and folder:
        validation.losses = _losses(folder)
        trainer.ended = validation.reason_to_stop()
        again = LOSS if validation.due(step) else None
    if folder:
        say(f"resuming at step {step} of {summary['steps']}")
    if rank == 0:
        write_json(stage.work / "run.json", {**_record(stage, summary), **record(stage, parent)})
        trainer.journal = Journal(stage.work, step, again)
    try:
        if step == summary["steps"] or trainer.ended:
            trainer.restore(folder)
        elif not trainer.stop_anywhere():
            trainer.train(resume_from_checkpoint=str(folder) if folder else None)
            step = trainer.state.global_step
    finally:
        if trainer.journal:
            trainer.journal.close()
    return step


def _newest(stage: Stage, steps: int, over: int) -> tuple[int, Path] | None:
    """The checkpoint to go on from: of a training that is over, ``over`` steps before its end."""
    found = checkpoints.newest(stage.work, steps - over)
    if over and found and stage.validation:
        early_stop = stage.options["validate"].get("early_stop")
        if reason_to_stop(_losses(found[1]), early_stop):
            return checkpoints.newest(stage.work, found[0] - over)
    return found


def _losses(checkpoint: Path) -> Losses:
    """The validation losses up to a checkpoint."""
    return dict(read_json(checkpoint / checkpoints.COMPLETE)["validations"])


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


def _totals(data: PlanDataset) -> list[StepTotals]:
    plan = data.plan
    samples = np.diff(plan.pack_starts)
    packs = [slice(*plan.step_starts[step : step + 2]) for step in range(plan.steps)]
    return [
        StepTotals(
            int(plan.tokens[part].sum()), int(plan.supervised[part].sum()), int(samples[part].sum())
        )
        for part in packs
    ]


def _count(model: torch.nn.Module) -> dict[str, int]:
    """Parameters, those of an adapter included, and how many of them are trained."""
    sizes = [
        (getattr(parameter, "ds_numel", parameter.numel()), parameter.requires_grad)
        for parameter in model.parameters()
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
        **({"validation": facts(stage.validation)} if stage.validation else {}),
        "base": sha256_file(stage.model_manifest),
        "code": stage.code,
    }


def _features(stage: Stage) -> dict[str, Any]:
    """What the result says of features, if the stage trains on any."""
    manifests = {path.as_posix(): sha256_file(path) for path in stage.features}
    return {"features_sha256": manifests} if manifests else {}


def _say(line: str) -> None:
    print(line, flush=True)


def _keep_quiet(line: str) -> None:
    """Ranks above 0 would say the same again."""
