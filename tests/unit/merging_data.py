"""Data, models and programs' arguments of stages with token merging."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tiny_families
import tiny_project

import plan_stage
import token_data
from real_samples import convert, media_bytes
from shardline.families import llava
from shardline.loader import PlanDataset
from shardline.samples import Sample
from shardline.training.journal import read_journal

LAYERS = 4
SIDE = 112
TOKENS = {**token_data.OPTIONS["tokens"], "image_side": SIDE, "fit": "pad"}
TOKENISED = {"family": "llava", "task": "chat", "tokens": TOKENS, "plugins": []}
RATIO = {"ratio": 0.3, "slowfast": False}
SIZES = [(90, 60), (60, 120), (112, 112)]
SHAPES = [(6 + number % 17, SIZES[: number % 4]) for number in range(20)]


@dataclass
class Data:
    """Tokenised conversations, and the model that they are tokenised for."""

    root: Path
    model: Path
    lock: Path
    manifest: Path

    @property
    def results(self) -> Path:
        return self.root / "results"

    def plan(self, merging: dict | None = RATIO, stage: str = "s", **changes: Any) -> Path:
        """Run the planning program."""
        options = token_data.plan_options([self.manifest], stage, family="llava", **changes)
        if merging:
            options["token_merging"] = merging
        plan = self.results / f"plans/demo/{stage}.json"
        arguments = {
            "options": json.dumps(options),
            "tokens": self.manifest,
            **({"model": self.model} if merging else {}),
            "plan": plan,
            "parquet": plan.with_suffix(".parquet"),
            "rejects": plan.with_suffix(".rejects.jsonl"),
        }
        plan_stage.main(token_data.command_line(arguments))
        return plan

    def data(self, plan: Path, **options: Any) -> PlanDataset:
        return PlanDataset(self.results, plan, plan.with_suffix(".parquet"), llava, **options)

    def folder(self, stage: str) -> Path:
        return self.results / "checkpoints/demo" / stage

    def hardware(self, stage: str, preset: str) -> Path:
        """Write a stage's preset."""
        file = self.root / f"{stage}.yaml"
        file.write_text(f"device: cpu\ncheckpoint_every: 2\n{preset}")
        return file

    def arguments(self, plan: Path, preset: str = "", **changes: Any) -> list[str]:
        """Of the training program."""
        stage = plan.stem
        own = {"recipe": "demo", "stage": stage, "family": "llava", "token_merging": RATIO}
        options = {**tiny_project.TRAINING, **own, **changes}
        if options["token_merging"] is None:
            del options["token_merging"]
        arguments = {
            "options": json.dumps(options),
            "plan": plan,
            "parquet": plan.with_suffix(".parquet"),
            "results": self.results,
            "model": self.model,
            "model-manifest": self.lock,
            "work": self.folder(stage) / "work",
            "code": "c0de",
            "hardware": self.hardware(stage, preset),
            "threads": 1,
            "result": self.folder(stage) / "result.json",
        }
        return token_data.command_line(arguments)

    def losses(self, stage: str) -> list[str]:
        (work,) = (self.folder(stage) / "work").iterdir()
        return [line["metrics"]["loss"].hex() for line in read_journal(work)]


def build(folder: Path, layers: int) -> Path:
    """Write a model whose tower has so many layers and sees 8 x 8 patches."""
    vision = {"num_hidden_layers": layers, "image_size": SIDE}
    return tiny_families.build("llava", folder, vision_config=vision)


def turns() -> tuple[Sample, list[bytes]]:
    """A conversation with a picture in each of its two questions."""
    sample, files = token_data.talks([(9, SIZES[:2])], first=100)[0]
    text = {"type": "text", "text": "what else"}
    again = [
        {"role": "user", "content": [{"type": "image"}, text]},
        {"role": "assistant", "content": [{"type": "text", "text": "bdfbdfbdfbdf"}]},
    ]
    question, answer = sample.messages
    question = {**question, "content": question["content"][1:]}
    return dataclasses.replace(sample, messages=[question, answer, *again]), files


def made(root: Path, samples: list) -> Data:
    """Samples, and a model that they are tokenised for."""
    model = build(root / "results/raw/models/tiny", LAYERS)
    lock = tiny_project.lock_model(model)
    filtered = token_data.write_filtered(root / "results", samples, shard_size=9)
    return Data(root, model, lock, token_data.tokenise(filtered, model, options=TOKENISED))


def talks(root: Path) -> Data:
    """0 to 3 pictures a conversation, and one with a picture between its answers."""
    return made(root, [*token_data.talks(SHAPES), turns()])


def clips(root: Path, shared_data: Path) -> Data:
    """Real videos with captions."""
    options = {"annotations": "videos/captions.jsonl"}
    folder = shared_data / "captioned_videos"
    found = convert(folder, root, "clips", format="llava", frame=None, format_options=options)
    return made(root, [(sample, media_bytes(sample, root)) for sample in found])
