"""A small finished results folder of a recipe with two stages, as the stages would leave it.

Models and losses are made up; for its data see `data_tree`.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

from data_tree import BASE, BENCHMARK, FILTERED, TOKENS, TRAIN, DataTree, Json, draw_screen
from shardline.files import canonical_json, sha256_bytes, sha256_file, write_json, write_jsonl
from shardline.intervals import wilson


def options() -> Json:
    """The options of the recipe's report, as the config layer makes them."""
    shared = {"licence": "apache-2.0"}
    return {
        "recipe": "demo",
        "title": "demo",
        "description": "A tiny model learns to click on drawn screens.",
        "datasets": [
            {
                "name": TRAIN,
                "filter": FILTERED,
                "tokens": TOKENS,
                "role": "train",
                "source": "generate:screens",
                **shared,
            },
            {"name": BENCHMARK, "role": "benchmark", "source": "generate:screens", **shared},
        ],
        "stages": [
            {"name": "sft", "init": "base", "method": "sft", "exports": ["merged"]},
            {"name": "adapt", "init": "sft", "method": "sft", "exports": ["adapter", "merged"]},
        ],
        "benchmarks": [BENCHMARK],
        "models": ["base", "sft", "adapt"],
        "base": BASE,
        "base_source": "init:config/models/tiny.json",
        "base_licence": "apache-2.0",
        "config": {
            "family": "qwen2_vl",
            "seed": 7,
            "train": [TRAIN],
            "tokens": {"task": "grounding", "answer": {"decimals": 1}},
            "stages": [{"name": "sft", "tune": {"llm": {"lr": 0.004}}}, {"name": "adapt"}],
            "max_new_tokens": 16,
        },
    }


class ResultsTree(DataTree):
    """Writes the tree below ``results``; a stage's key may be chosen."""

    def __init__(self, results: Path, screens: int = 12, steps: int = 200) -> None:
        super().__init__(results, screens)
        self.steps = steps

    def write(self) -> ResultsTree:
        """Everything of a finished recipe except the report."""
        self.write_data(TRAIN, seed=1)
        self.write_data(BENCHMARK, seed=2, missing=2)
        self.write_filtered()
        self.write_model_lock()
        for stage, kind, accuracy in (("sft", "full", 0.71), ("adapt", "lora", 0.86)):
            self.write_plan(stage)
            key = self.work(stage).name
            self.write_training(stage, key=key, kind=kind)
            self.write_result(stage, key=key, kind=kind)
            self.write_scores(stage, accuracy)
        self.write_scores("base", 0.05)
        self.write_times()
        return self

    def plan(self, stage: str) -> Json:
        """A stage's plan."""
        return {
            "stage": "plan",
            "recipe": "demo",
            "name": stage,
            "method": "sft",
            "steps": self.steps,
            "samples": 32 * self.steps,
            "distinct_samples": self.screens - 1,
            "epochs": 9.5,
            "packs": 2 * self.steps,
            "tokens": 4000 * self.steps,
            "supervised_tokens": 900 * self.steps,
            "patches": 2500 * self.steps,
            "fill": 0.9731,
            "max_length": 2048,
            "seed": 7,
            "shards": [
                {"path": f"tokens/{TRAIN}/{TOKENS}/shard-00000-png.tar", "sha256": "ab" * 32}
            ],
            "shares": {TRAIN: {"asked": 1.0, "got": 1.0}},
            "reasons": {},
            "rejected": 0,
            "parquet_sha256": sha256_bytes(stage.encode()),
        }

    def write_plan(self, stage: str) -> None:
        """A stage's plan file."""
        self.json(f"plans/demo/{stage}.json", self.plan(stage))

    def work(self, stage: str, key: str = "") -> Path:
        """The folder of a training of a stage; without a key, of the one that `write` makes."""
        return self.results / "checkpoints/demo" / stage / "work" / (key or f"{stage}0000")

    def write_training(
        self, stage: str, key: str, kind: str = "full", lr: float = 4e-3, start: float = 1.7e9
    ) -> Path:
        """A training's work folder with its whole journal; returns the folder."""
        folder = self.work(stage, key)
        write_json(
            folder / "run.json",
            {
                "recipe": "demo",
                "stage": stage,
                "key": key,
                "options": {
                    "recipe": "demo",
                    "stage": stage,
                    "seed": 7,
                    "tune": {"llm": {"mode": kind, "lr": lr}, "vision": {"mode": "frozen"}},
                    "optimizer": {"name": "adamw", "betas": [0.9, 0.999]},
                },
                "plan": self.plan(stage),
                "base": "cd" * 32,
                "code": "0f1e2d3c",
            },
        )
        rows = journal_rows(self.steps, lr, start, seed=len(stage))
        (folder / "metrics.jsonl").write_text("".join(canonical_json(row) + "\n" for row in rows))
        (folder / "final").mkdir(exist_ok=True)
        (folder / "final" / "model.safetensors").write_bytes(key.encode() * 10)
        return folder

    def write_result(self, stage: str, key: str, kind: str = "full") -> None:
        """What a training says at its end, and the exports made from it."""
        path = self.json(
            f"checkpoints/demo/{stage}/result.json",
            {
                "stage": "train",
                "recipe": "demo",
                "name": stage,
                "key": key,
                "kind": kind,
                "steps": self.steps,
                "first_loss": 3.912,
                "final_loss": 0.4031,
                "weights": [],
                "gates": {
                    "packing_parity": {
                        "passed": True,
                        "max_difference": 3.1e-7,
                        "tolerance": 1e-5,
                    },
                    "freeze_audit": {
                        "passed": True,
                        "moved": {"llm": True, "projector": kind == "full", "vision": False},
                    },
                },
                "parameters": 321_984,
                "trainable_parameters": 321_984 if kind == "full" else 12_288,
                "plan_sha256": "12" * 32,
                "model_sha256": "34" * 32,
            },
        )
        for export in ("merged", "adapter") if kind == "lora" else ("merged",):
            folder = self.results / "models/demo" / stage / export
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "model.safetensors").write_bytes(f"{export} {key}".encode() * 100)
            (folder / "config.json").write_text("{}\n")
            files = [
                {"name": file.name, "bytes": file.stat().st_size, "sha256": sha256_file(file)}
                for file in sorted(folder.iterdir())
            ]
            manifest = {
                "stage": "export",
                "kind": export,
                "recipe": "demo",
                "name": stage,
                "files": files,
                "result_sha256": sha256_file(path),
            }
            if export == "merged":
                manifest["parity"] = {
                    "passed": True,
                    "max_logit_difference": 2.4e-6,
                    "tolerance": 1e-4,
                    "changed_tensors": 14,
                    "unchanged_tensors": 61,
                }
            self.json(f"models/demo/{stage}/{export}.json", manifest)

    def write_scores(self, model: str, accuracy: float) -> None:
        """Items and scores of a model that hits about ``accuracy`` of the benchmark's boxes."""
        draw = random.Random(model)
        items = []
        for index in range(self.screens):
            width, height = ((140, 112), (112, 140))[index % 2]
            _, boxes = draw_screen(random.Random(f"2/{index}"), width, height)
            for number, box in enumerate(boxes):
                items.append(_item(draw, index, number, box, accuracy))
        folder = f"evals/demo/{model}/{BENCHMARK}"
        write_jsonl(self.results / folder / "items.jsonl", items)
        hits, total = sum(item["hit"] for item in items), len(items)
        cells: dict[str, list[bool]] = {}
        for item in items:
            cells.setdefault(item["cell"], []).append(item["hit"])
        low, high = wilson(hits, total)
        accuracies = {name: sum(found) / len(found) for name, found in sorted(cells.items())}
        self.json(
            f"{folder}/scores.json",
            {
                "metric": "point_in_box",
                "model": model,
                "benchmark": BENCHMARK,
                "accuracy": hits / total,
                "n": total,
                "low": low,
                "high": high,
                "macro": sum(accuracies.values()) / len(accuracies),
                "cells": {
                    name: {"accuracy": value, "n": len(cells[name])}
                    for name, value in accuracies.items()
                },
                "wrong_format": sum(item["point"] is None for item in items),
                "missing": 2,
            },
        )

    def write_times(self) -> None:
        """Snakemake's benchmark files."""
        for place, seconds in {
            f"fetch_dataset/{TRAIN}": 2.5,
            f"convert_dataset/{TRAIN}": 1.9,
            f"convert_dataset/{BENCHMARK}": 1.2,
            f"decide_filters/{TRAIN}/{FILTERED}": 2.2,
            f"write_image_shard/{TRAIN}/{FILTERED}/00000-png": 0.8,
            f"tokenize_shard/{TRAIN}/{TOKENS}/00000-png": 3.3,
            "plan_stage/demo/sft": 0.7,
            "train_stage/demo/sft": 171.4,
            "train_stage/demo/adapt": 62.0,
            f"predict_benchmark/demo/adapt/{BENCHMARK}": 14.2,
        }.items():
            path = self.results / "benchmarks" / f"{place}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"s": seconds, "max_rss": 100.0}) + "\n")


def journal_rows(steps: int, lr: float, start: float, seed: int = 0) -> list[Json]:
    """One journal row a step: a noisy falling loss and a cosine learning rate."""
    noise = random.Random(seed)
    return [
        {
            "step": step,
            "time": start + 0.5 * step,
            "metrics": {
                "loss": 0.3 + 3.6 * math.exp(-4 * step / steps) + noise.uniform(0, 0.25),
                "lr/llm": lr * 0.5 * (1 + math.cos(math.pi * step / steps)),
                "grad_norm": noise.uniform(0.5, 2.0),
            },
        }
        for step in range(1, steps + 1)
    ]


def _item(draw: random.Random, index: int, number: int, box: Json, accuracy: float) -> Json:
    left, top, right, bottom = box["xyxy"]
    sample = f"{BENCHMARK}:annotations.json#{index}"
    hit = draw.random() < accuracy
    point = [draw.random(), draw.random()]
    if hit:
        point = [draw.uniform(left, right), draw.uniform(top, bottom)]
    elif draw.random() < 0.1:
        point = None
    hit = point is not None and left <= point[0] <= right and top <= point[1] <= bottom
    answer = f"[{point[0]:.2f}, {point[1]:.2f}]" if point else "<b>no idea</b>"
    return {
        "item": f"{sample}#{number}",
        "hit": hit,
        "point": point,
        "box": box["xyxy"],
        "cell": ("desktop/icon", "web/text")[index % 2],
        "question": f"Where is: {box['label']}?",
        "answer": answer,
    }
