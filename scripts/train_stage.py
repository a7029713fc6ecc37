"""Train one stage of a recipe: its plan, on its base model, as its options say.

Called by the rule train_stage, once a stage:

    python scripts/train_stage.py \\
        --options '{"recipe": "demo", "stage": "sft", "method": "sft", "family": "qwen2_vl",
                    "seed": 42, "precision": "fp32",
                    "tune": {"llm": {"mode": "full", "lr": 4e-3, "weight_decay": 0.0},
                             "projector": {"mode": "full", "lr": 4e-3, "weight_decay": 0.0},
                             "vision": {"mode": "full", "lr": 4e-3, "weight_decay": 0.0}},
                    "optimizer": {"name": "adamw", "betas": [0.9, 0.999], "eps": 1e-8, "clip": 1.0},
                    "schedule": {"name": "cosine", "warmup": 0.03}}' \\
        --plan results/plans/demo/sft.json --parquet results/plans/demo/sft.parquet \\
        --results results --model results/raw/models/tiny \\
        --model-manifest results/raw/models/tiny.lock.json --features \\
        --work results/checkpoints/demo/sft/work --code 0123abcd \\
        --hardware config/hardware/cpu.yaml --threads 2 \\
        --result results/checkpoints/demo/sft/result.json

in:  the plan, the token shards it names, the folder of the base model; manifests of features,
     if the options name a point at which they were taken; with the option `validate` the plan to
     validate on, with `continue_from` the result of the stage whose run is extended
out: work/<key>/run.json         what is trained
     work/<key>/metrics.jsonl    a line a step; tensorboard/ is a view of it
     work/<key>/checkpoint-<n>/  the newest and the best; a run of the same key goes on from them
     work/<key>/final/           the trained model, or the adapter
     result.json                 losses, gates, names and hashes of the weights; written last

SIGTERM, SIGUSR1 and SIGINT: saves within a step and exits with 75; run again to go on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from shardline import lean
from shardline.errors import ConfigError, run_program
from shardline.files import write_json
from shardline.hardware import load_hardware
from shardline.lease import lease
from shardline.training import launch, outcome
from shardline.training.requirements import check_requirements, needed_packages
from shardline.training.signals import StopRequest
from shardline.training.workkey import work_key

METHODS = ("sft",)
FILES = {"features": "features", "validation": "validate", "parent": "continue_from"}
"""Arguments that name files, and the options that ask for them."""


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, with options and files that go together."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--options", type=json.loads, required=True, help="JSON, see above")
    parser.add_argument("--plan", type=Path, required=True, help="the plan's summary (JSON)")
    parser.add_argument("--parquet", type=Path, required=True, help="the plan's packs")
    parser.add_argument("--results", type=Path, required=True, help="what paths are relative to")
    parser.add_argument("--model", type=Path, required=True, help="folder to start from")
    parser.add_argument("--model-manifest", type=Path, required=True, help="its lock or manifest")
    parser.add_argument(
        "--features", type=Path, nargs="*", default=[], help="manifests, one a dataset of the plan"
    )
    parser.add_argument(
        "--validation", type=Path, nargs="*", default=[], help="summary of the plan to validate on"
    )
    parser.add_argument(
        "--parent", type=Path, nargs="*", default=[], help="result.json of the run to go on from"
    )
    parser.add_argument(
        "--keep-steps", type=int, nargs="*", default=[], help="steps whose checkpoints are kept"
    )
    parser.add_argument("--work", type=Path, required=True, help="folder of the work folders")
    parser.add_argument("--code", required=True, help="fingerprint of this program's code")
    parser.add_argument("--hardware", type=Path, required=True, help="hardware preset (YAML)")
    parser.add_argument("--threads", type=int, required=True, help="CPU threads, of all ranks")
    parser.add_argument("--result", type=Path, required=True, help="result to write")
    arguments = parser.parse_args(argv)
    options = arguments.options
    if options["method"] not in METHODS:
        raise ConfigError(f"method: {options['method']!r} is not one of {', '.join(METHODS)}")
    for name, key in FILES.items():
        if bool(options.get(key)) != bool(getattr(arguments, name)):
            raise ConfigError(f"--{name}: files go with the option `{key}`, and it with them")
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Train, go on, or use what an earlier run has finished."""
    arguments = parse(argv)
    options = arguments.options
    hardware = load_hardware(arguments.hardware)
    key = work_key(
        options,
        arguments.plan,
        arguments.model_manifest,
        arguments.code,
        arguments.features,
        arguments.validation,
        arguments.parent,
    )
    work = arguments.work / key
    if not (work / outcome.RECORD).is_file():  # else it is used, whatever the preset
        check_requirements(options, hardware, arguments.plan)

    def train(stop: StopRequest) -> None:
        needed = needed_packages(options, hardware)
        lean.without(*(name for name in lean.HEAVY if name not in needed))
        from shardline.training.stage import Stage
        from shardline.training.stage import train as train_here

        train_here(
            Stage(
                options=options,
                plan=arguments.plan,
                parquet=arguments.parquet,
                results=arguments.results,
                model=arguments.model,
                model_manifest=arguments.model_manifest,
                features=arguments.features,
                validation=next(iter(arguments.validation), None),
                parent=next(iter(arguments.parent), None),
                named_steps=arguments.keep_steps,
                work=work,
                code=arguments.code,
                hardware=hardware,
                threads=arguments.threads,
            ),
            stop,
        )

    def train_alone() -> None:
        with StopRequest() as stop:
            train(stop)

    if launch.in_rank() and (launch.started_here() or launch.own_rank()[0] > 0):
        if launch.started_here() or not outcome.finished(work):
            train_alone()
        return
    with lease(work / "lease") as held:
        if outcome.finished(work):
            print(f"{work} is finished; its final weights are used", flush=True)
        elif launch.in_rank() or (hardware.ranks == 1 and not hardware.deepspeed):
            train_alone()
        else:
            program = [__file__, *(sys.argv[1:] if argv is None else argv)]
            launch.run_ranks(program, hardware.ranks, arguments.threads, held)
        write_json(arguments.result, outcome.finished(work))


if __name__ == "__main__":
    run_program(main)
