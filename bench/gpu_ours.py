"""Rows of `gpu` that are the product: `train_stage` over a plan, watched while it runs."""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gpu_data
import numpy as np
import torch

from shardline import flops
from shardline.errors import GateError
from shardline.families import qwen2_vl as family
from shardline.files import read_json
from shardline.plan_file import read_plan

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
LORA = {"mode": "lora", "lr": 1e-4, "weight_decay": 0.0, "rank": 8, "alpha": 64, "dropout": 0.05}
FROZEN = {"mode": "frozen", "lr": 0.0, "weight_decay": 0.0}
POINT = "projected"


class Watch:
    """What a training does not write down: waiting for rows, arithmetic, calls that wait."""

    def __init__(self, warm: int) -> None:
        self.waits: list[float] = []
        self.work: list[flops.Work] = []
        self.graphs: list[int] = []
        self.syncs: list[str] = []
        self.costs: flops.Costs | None = None
        self._warm = warm

    def attach(self, trainer_class: type) -> None:
        """Have every trainer of this class say what it does."""
        inner = trainer_class.get_batch_samples

        def get_batch_samples(trainer: Any, *given: Any) -> Any:
            if self.costs is None:
                self.costs = flops.step_costs(trainer.model, family)
            self._listen(len(self.waits) == self._warm)
            begin = time.perf_counter()
            rows, nothing = inner(trainer, *given)
            self.waits.append(time.perf_counter() - begin)
            works = [flops.row_work(row, family) for row in rows]
            self.work.append(sum(works, flops.Work()))
            self.graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
            return rows, nothing

        trainer_class.get_batch_samples = get_batch_samples

    def _listen(self, on: bool) -> None:
        """During one step, note each call that waits for the device."""
        if not torch.cuda.is_available():
            return
        torch.cuda.set_sync_debug_mode("warn" if on else "default")
        if on:
            warnings.simplefilter("always")
            warnings.showwarning = lambda message, *place, **_: (
                self.syncs.append(f"{place[1]}:{place[2]}") if "synchron" in str(message) else None
            )


def train(row: Mapping[str, Any], folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Train over the plan and say how fast it went.

    Args:
        row: ``steps``, and of the preset ``compile`` and ``kernels``; ``features``: train on them.
    """
    sys.path.insert(0, str(SCRIPTS))
    import train_stage
    from shardline.training import trainer
    from shardline.training.journal import read_journal

    watch = Watch(settings["warm"])
    watch.attach(trainer.PlanTrainer)
    results = folder / "results"
    plan = results / f"plans/bench/{row['steps']}.json"
    stage = results / f"checkpoints/bench/{row['name']}"
    found: dict[str, Any] = {}
    try:
        train_stage.main(_arguments(row, results, plan, stage, _preset(row, folder, settings)))
    except GateError as error:
        if "diverged" not in str(error):
            raise
        found["error"] = str(error)
    lines = list(read_journal(next((stage / "work").iterdir())))
    seconds = [line["metrics"]["seconds"] for line in lines]
    losses = [line["metrics"]["loss"] for line in lines]
    planned = read_plan(plan, plan.with_suffix(".parquet"))
    tokens = np.add.reduceat(planned.tokens, planned.step_starts[:-1])
    samples = np.diff(planned.pack_starts[planned.step_starts])
    timed = slice(settings["warm"], len(lines))
    passed = sum(seconds[timed])
    return found | {
        "steps": len(lines),
        "seconds": passed,
        "tokens": int(tokens[timed].sum()),
        "samples": int(samples[timed].sum()),
        "flops": sum(watch.costs.of(work) for work in watch.work[timed]),
        "data_wait_share": sum(watch.waits[timed]) / passed,
        "warm_seconds": _excess(seconds, settings["warm"]),
        "first_loss": losses[0],
        "last_losses": statistics.fmean(losses[-10:]),
        "nan": sum(not math.isfinite(loss) for loss in losses) + ("error" in found),
        "graphs": watch.graphs[-1],
        "late_graphs": watch.graphs[-1] - watch.graphs[min(2, len(watch.graphs) - 1)],
        "syncs_a_step": len(watch.syncs),
        "syncs": sorted(set(watch.syncs)),
        "fill": float(planned.summary["fill"]),
    }


def _excess(seconds: list[float], warm: int) -> float:
    """What the first steps took longer than usual ones: compiling, choosing kernels."""
    return sum(seconds[:warm]) - warm * statistics.median(seconds[warm:])


def _preset(row: Mapping[str, Any], folder: Path, settings: Mapping[str, Any]) -> Path:
    keys = {
        **{"device": settings["device"], "workers": settings["workers"], "micro_batch": 1},
        **{"checkpoint_every": 1_000_000},
        **{key: row[key] for key in ("compile", "kernels", "attention") if key in row},
    }
    preset = folder / f"{row['name']}.yaml"
    preset.write_text("".join(f"{key}: {value}\n" for key, value in keys.items()))
    return preset


def _arguments(
    row: Mapping[str, Any], results: Path, plan: Path, stage: Path, preset: Path
) -> list[str]:
    model = results / "raw/models/base"
    options = {
        **{"recipe": "bench", "stage": row["name"], "method": "sft", "family": "qwen2_vl"},
        **{"seed": 0, "precision": row["precision"]},
        "tune": {"llm": {**LORA, "targets": None}, "projector": FROZEN, "vision": FROZEN},
        "optimizer": {"name": "adamw", "betas": [0.9, 0.999], "eps": 1e-8, "clip": 1.0},
        "schedule": {"name": "cosine", "warmup": 1},
        **({"features": POINT} if row.get("features") else {}),
    }
    manifests = [str(results / f"features/mix/bench/{POINT}/manifest.json")]
    return [
        *("--options", json.dumps(options), "--plan", str(plan)),
        *("--parquet", str(plan.with_suffix(".parquet")), "--results", str(results)),
        *("--model", str(model), "--model-manifest", str(model.with_suffix(".lock.json"))),
        *("--work", str(stage / "work"), "--code", "bench", "--hardware", str(preset)),
        *("--threads", str(row["threads"]), "--result", str(stage / "result.json")),
        *("--features", *(manifests if row.get("features") else [])),
    ]


def compute_features(
    _: Mapping[str, Any], folder: Path, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Run the programs of the rules over all token shards; seconds and bytes of that."""
    results = folder / "results"
    tokens = results / "tokens/mix/bench/manifest.json"
    model = results / "raw/models/base"
    made = results / f"features/mix/bench/{POINT}"
    made.mkdir(parents=True, exist_ok=True)
    preset = folder / "features.yaml"
    preset.write_text(f"device: {settings['device']}\n")
    options = {"family": "qwen2_vl", "point": POINT, "precision": settings["precision"]}
    begin = time.perf_counter()
    for shard in read_json(tokens)["shards"]:
        _run(
            "compute_features.py",
            *("--options", json.dumps(options), "--tokens", str(tokens.with_name(shard["name"]))),
            *("--model", str(model), "--model-manifest", str(model.with_suffix(".lock.json"))),
            *("--hardware", str(preset), "--threads", str(settings["threads"])),
            *("--output", str(made / shard["name"]), "--index", str(made / shard["index"])),
        )
    _run(
        "write_features_manifest.py",
        *("--dataset", "mix", "--variant", "bench", "--features", POINT, "--tokens", str(tokens)),
        *("--folder", str(made), "--manifest", str(made / "manifest.json")),
    )
    count = read_json(tokens)["samples"]["kept"]
    return {
        "seconds": time.perf_counter() - begin,
        "gigabytes_per_1000_samples": gpu_data.stored_bytes(made / "manifest.json") / count / 1e6,
        "samples": count,
    }


def _run(program: str, *arguments: str) -> None:
    subprocess.run([sys.executable, str(SCRIPTS / program), *arguments], check=True)
