"""A project's ``results/`` up to the plan of one training stage, made by the real programs."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tiny_models
from PIL import Image

import plan_stage
import tokenize_shard
import write_token_manifest
from converted_rows import write_rows
from shardline.files import (
    canonical_json,
    file_entry,
    sha256_bytes,
    sha256_file,
    write_json,
)
from shardline.samples import Box, Medium, Sample
from shardline.shards import write_shard
from shardline.training.journal import read_journal

WORDS = ("Save", "Open", "Close", "Search", "Print")
TOKENS = {
    "min_visual_tokens": 4,
    "max_visual_tokens": 64,
    "answer": {"decimals": 1},
    "prompt": "",
    "seed": 1,
}
ADAMW = {"name": "adamw", "betas": [0.9, 0.999], "eps": 1e-8, "clip": 1.0}
FULL = {"mode": "full", "lr": 2e-3, "weight_decay": 0.01}
FROZEN = {"mode": "frozen", "lr": 0.0, "weight_decay": 0.0}
LORA = {
    "mode": "lora",
    "lr": 5e-3,
    "weight_decay": 0.0,
    "rank": 4,
    "alpha": 8,
    "dropout": 0.1,
    "targets": None,
}
TUNE = {"llm": LORA, "projector": FULL, "vision": FROZEN}
TRAINING = {
    "recipe": "r",
    "stage": "s",
    "method": "sft",
    "family": "qwen2_vl",
    "seed": 5,
    "precision": "fp32",
    "tune": dict.fromkeys(TUNE, FULL),
    "optimizer": ADAMW,
    "schedule": {"name": "cosine", "warmup": 1},
}
"""Options of a training, but for what its test is about."""


@dataclass
class Project:
    """Paths below a results folder, and the arguments of the programs that go on from there."""

    results: Path
    model: Path
    lock: Path
    plan: Path
    parquet: Path
    options: dict[str, Any]
    hardware: Path

    @property
    def stage(self) -> Path:
        return self.results / "checkpoints/r/s"

    @property
    def work(self) -> Path:
        """The folder of the stage's only training."""
        (work,) = (self.stage / "work").iterdir()
        return work

    def losses(self) -> list[str]:
        """Of each step in that training's journal, to the last bit."""
        return [line["metrics"]["loss"].hex() for line in read_journal(self.work)]

    def training(self, **changes: Any) -> list[str]:
        """Arguments of train_stage; ``changes`` update the options."""
        return [
            *("--options", json.dumps({**self.options, **changes})),
            *("--plan", str(self.plan), "--parquet", str(self.parquet)),
            *("--results", str(self.results), "--model", str(self.model)),
            *("--model-manifest", str(self.lock), "--work", str(self.stage / "work")),
            *("--code", "c0de", "--hardware", str(self.hardware), "--threads", "1"),
            *("--result", str(self.stage / "result.json")),
        ]


@contextmanager
def untrained(project: Project) -> Iterator[None]:
    """The project without any training; its preset is put back at the end."""
    preset = project.hardware.read_text()
    shutil.rmtree(project.stage, ignore_errors=True)
    yield
    project.hardware.write_text(preset)


def samples(count: int, dataset: str = "d", first: int = 0) -> list[tuple[Sample, bytes]]:
    """Screens of two sizes with one to three boxes, and their PNG bytes; ``first``: a number."""
    made = []
    for number in range(first, first + count):
        rng = np.random.default_rng(number)
        width, height = [(112, 112), (140, 84)][number % 2]
        pixels = rng.integers(0, 256, (height // 28, width // 28, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST)
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        boxes = []
        for _ in range(number % 3 + 1):
            x, y = rng.uniform(0.05, 0.75, 2).round(3).tolist()
            boxes.append(
                Box(label=str(rng.choice(WORDS)), xyxy=[x, y, x + 0.2, y + 0.2], kind="icon")
            )
        medium = Medium(
            kind="image",
            path=f"images/{number}.png",
            width=width,
            height=height,
            sha256=sha256_bytes(buffer.getvalue()),
        )
        made.append(
            (
                Sample(
                    id=f"{dataset}:a.json#{number}",
                    dataset=dataset,
                    media=[medium],
                    boxes=boxes,
                    meta={"cell": f"web/{['icon', 'text'][number % 2]}"},
                ),
                buffer.getvalue(),
            )
        )
    return made


def lock_model(folder: Path) -> Path:
    """Write the lock beside a model's folder."""
    lock = folder.with_suffix(".lock.json")
    write_json(lock, {"name": folder.name, "sha256": sha256_file(folder / "model.safetensors")})
    return lock


def tokenise(results: Path, model: Path, made: list[tuple[Sample, bytes]]) -> Path:
    """Token shards of the samples of one dataset; their manifest."""
    dataset = made[0][0].dataset
    filtered = results / f"filtered/{dataset}/f"
    shard = filtered / "shard-00000-png.tar"
    write_shard(
        shard,
        (
            (
                sha256_bytes(sample.id.encode())[:16],
                [("json", _head(sample)), ("0.png", data)],
            )
            for sample, data in made
        ),
    )
    entry = {**file_entry(shard), "samples": len(made)}
    write_json(filtered / "manifest.json", {"samples": {"kept": len(made)}, "shards": [entry]})
    tokens = results / f"tokens/{dataset}/t"
    stem = tokens / "shard-00000-png"
    options = json.dumps({"family": "qwen2_vl", "task": "grounding", "tokens": TOKENS})
    tokenize_shard.main(
        [
            *("--options", options, "--shard", str(shard), "--model", str(model)),
            *("--output", f"{stem}.tar", "--index", f"{stem}.index.parquet"),
            *("--rejects", f"{stem}.rejects.jsonl"),
        ]
    )
    manifest = tokens / "manifest.json"
    write_token_manifest.main(
        [
            *("--dataset", dataset, "--variant", "t", "--options", options),
            *("--filtered", str(filtered / "manifest.json"), "--folder", str(tokens)),
            *("--manifest", str(manifest), "--rejects", str(tokens / "rejects.jsonl")),
        ]
    )
    return manifest


def plan(results: Path, name: str, manifests: list[Path], **options: Any) -> Path:
    """The plan ``plans/r/<name>`` of all samples of tokenised datasets; its summary."""
    path = results / f"plans/r/{name}.json"
    planned = {
        "recipe": "r",
        "stage": "s",
        "method": "sft",
        "seed": 3,
        "mixture": [
            {"dataset": manifest.parent.parent.name, "percent": 100} for manifest in manifests
        ],
        "family": "qwen2_vl",
        **options,
    }
    plan_stage.main(
        [
            *("--options", json.dumps(planned), "--tokens", *map(str, manifests)),
            *("--plan", str(path), "--parquet", str(path.with_suffix(".parquet"))),
            *("--rejects", str(path.with_suffix(".rejects.jsonl"))),
        ]
    )
    return path


def build(
    root: Path, steps: int = 6, batch: int = 6, max_length: int = 300, **planning: Any
) -> Project:
    """Model, tokens and plan below ``root``/results; ``planning`` updates the plan's options."""
    results = root / "results"
    model = tiny_models.build(results / "raw/models/tiny")
    lock = lock_model(model)
    manifest = tokenise(results, model, samples(18))
    batches = {"global_batch": {"samples": batch}, "max_length": max_length, "steps": steps}
    planned = plan(results, "s", [manifest], **{**batches, "epochs": None, **planning})
    hardware = root / "cpu.yaml"
    hardware.write_text("device: cpu\nmicro_batch: 1\ncheckpoint_every: 2\n")
    parquet = planned.with_suffix(".parquet")
    return Project(results, model, lock, planned, parquet, TRAINING, hardware)


def benchmark(root: Path, count: int = 7) -> tuple[Path, Path]:
    """A converted benchmark ``b`` and its raw folder."""
    converted, raw = root / "results/converted/b", root / "results/raw/b"
    made = samples(count, "b")
    for sample, data in made:
        file = raw / sample.media[0].path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    shard = converted / "samples-00000.jsonl.zst"
    write_rows(shard, [sample.to_json() for sample, _ in made])
    manifest = converted / "manifest.json"
    boxes = sum(len(sample.boxes) for sample, _ in made)
    write_json(
        manifest,
        {
            "stage": "convert",
            "dataset": "b",
            "rows": {"in": count + 2, "kept": count, "rejected": 2},
            "elements": {"in": boxes, "kept": boxes, "rejected": 0},
            "reasons": {"missing_image": 2},
            "shards": [{**file_entry(shard), "samples": count}],
        },
    )
    return manifest, raw


def _head(sample: Sample) -> bytes:
    head = {
        "id": sample.id,
        "dataset": sample.dataset,
        "sample": canonical_json(sample.to_json()),
    }
    return canonical_json(head).encode()
