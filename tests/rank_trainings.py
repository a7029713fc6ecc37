"""Several trainings after one another in the same ranks: importing takes longer than training.

`train_all` starts this module as ranks; each of them reads the jobs and trains them in order.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from project_root import ROOT
from shardline.hardware import load_hardware
from shardline.lease import lease
from shardline.training import launch
from shardline.training.inputs import Stage
from shardline.training.journal import read_journal


@dataclass
class Job:
    """One training: its folder of work, its preset and the rest of what a stage is told."""

    work: Path
    preset: str
    options: dict[str, Any]
    plan: Path
    results: Path
    model: Path
    lock: Path

    def stage(self) -> Stage:
        """What `train_stage` would make of it."""
        hardware = self.work.with_suffix(".yaml")
        return Stage(
            options=self.options,
            plan=self.plan,
            parquet=self.plan.with_suffix(".parquet"),
            results=self.results,
            model=self.model,
            model_manifest=self.lock,
            work=self.work,
            code="c0de",
            hardware=load_hardware(hardware),
            threads=2,
        )

    def losses(self) -> list[float]:
        """Of each step, from its journal."""
        return [line["metrics"]["loss"] for line in read_journal(self.work)]


def train_all(jobs: list[Job], folder: Path, ranks: int = 2) -> None:
    """Train all jobs in one group of ranks."""
    for job in jobs:
        job.work.mkdir(parents=True, exist_ok=True)
        job.work.with_suffix(".yaml").write_text(job.preset)
    file = folder / "jobs.json"
    file.write_text(json.dumps([vars(job) for job in jobs], default=str))
    with lease(folder / "lease") as held, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{ROOT / 'scripts'}{os.pathsep}{ROOT / 'tests'}")
        launch.run_ranks(["-m", "rank_trainings", str(file)], ranks, ranks, held)


def read_jobs(file: Path) -> list[Job]:
    """The jobs that `train_all` wrote."""
    paths = ("work", "plan", "results", "model", "lock")
    return [
        Job(**{key: Path(value) if key in paths else value for key, value in job.items()})
        for job in json.loads(file.read_bytes())
    ]


def forget_devices() -> None:
    """Let the next training set transformers and accelerate up anew; the ranks stay connected."""
    from accelerate.state import AcceleratorState, GradientState, PartialState
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    gc.collect()
    for state in (AcceleratorState, PartialState, GradientState):
        state._shared_state.clear()
    unset_hf_deepspeed_config()
    os.environ.pop("ACCELERATE_USE_DEEPSPEED", None)


class Loading:
    """Counts what a rank holds of a model, and what DeepSpeed puts together while it is read."""

    def __init__(self) -> None:
        import deepspeed

        self.at_once = 0
        enter = deepspeed.zero.GatheredParameters.__enter__

        def noting(context: Any) -> Any:
            values = sum(getattr(one, "ds_numel", 0) for one in getattr(context, "params", []))
            self.at_once = max(self.at_once, values)
            return enter(context)

        deepspeed.zero.GatheredParameters.__enter__ = noting

    def facts(self, model: Any) -> dict[str, int]:
        """Values of the model, those that this rank holds, and most that were put together."""
        parts = list(model.parameters())
        held = [one.ds_tensor if hasattr(one, "ds_tensor") else one for one in parts]
        return {
            "values": sum(getattr(one, "ds_numel", one.numel()) for one in parts),
            "held": sum(one.numel() for one in held),
            "at_once": self.at_once,
        }


def main() -> None:
    """Be one rank."""
    from shardline.training import stage

    make, loading = stage.tuned_model, Loading()
    for job in read_jobs(Path(sys.argv[1])):
        forget_devices()

        def noted(*told: Any, job: Job = job) -> Any:
            loading.at_once = 0
            model = make(*told)
            note = job.work.with_suffix(f".{os.environ['RANK']}.json")
            note.write_text(json.dumps(loading.facts(model)))
            return model

        stage.tuned_model = noted
        stage.train(job.stage(), lambda: "")


if __name__ == "__main__":
    main()
