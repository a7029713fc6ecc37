"""A small project on a disk, its data made by the real programs; only its weights are made up.

Two datasets of drawn screens go through fetch, convert, filter, tokenise and plan as the rules
would run them; no torch is needed.
"""

from __future__ import annotations

import importlib
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from data_tree import draw_screen
from results_tree import journal_rows
from shardline import dag, paths
from shardline.config.layers import load, project_layers
from shardline.config.project import Project
from shardline.files import (
    canonical_json,
    file_entry,
    read_json,
    read_jsonl,
    sha256_file,
    short_hash,
    write_json,
    write_jsonl,
)
from shardline.qwen_chat import train_tokenizer
from shardline.samples import Sample
from shardline.tasks import grounding
from shardline.training.workkey import work_key

CONFIG = """\
datasets:
  screens: {source: "folder:data/screens", format: showui, frame: unit_xyxy, licence: cc0-1.0}
  held_out:
    source: "folder:data/held_out"
    format: screenspot
    frame: pixel_xywh
    licence: mit
    metric: point_in_box
recipes:
  small:
    family: qwen2_vl
    base: "folder:data/base"
    base_licence: apache-2.0
    train: [screens]
    filters: [dedup]
    tokens: {min_visual_tokens: 4, max_visual_tokens: 64, prompt: ""}
    stages:
      - name: sft
        tune: {llm: {full: true, lr: 1.0e-3}}
        global_batch: {samples: 4}
        steps: 5
        max_length: 512
      - name: adapt
        init: sft
        tune: {llm: {lora: {rank: 4, alpha: 8}, lr: 1.0e-3}}
        global_batch: {samples: 4}
        steps: 3
        max_length: 512
    exports: [adapter, merged]
    evaluate: [held_out]
  other:
    extends: small
    seed: 1
"""
WIDTH, HEIGHT = 140, 112
HIDDEN, VOCABULARY = 16, 320


class SmallProject:
    """Writes the project into ``root``, which must be the current directory."""

    def __init__(self, root: Path, screens: int = 10) -> None:
        self.root = root
        self.screens = screens
        (root / "Snakefile").touch()
        (root / "config" / "recipes").mkdir(parents=True)
        (root / "config" / "config.yaml").write_text("build: [small]\n")
        (root / "config" / "datasets.yaml").write_text("datasets: {}\n")
        (root / "config" / "recipes" / "small.yaml").write_text(CONFIG)
        self.draw_data()
        self.write_base()

    def copy_to(self, root: Path) -> SmallProject:
        """The project at another place, its links leading there."""
        shutil.copytree(self.root, root, symlinks=True, dirs_exist_ok=True)
        for link in (root / "results" / "raw").rglob("*"):
            if link.is_symlink():
                target = link.readlink().relative_to(self.root)
                link.unlink()
                link.symlink_to(root / target)
        copy = object.__new__(SmallProject)
        copy.root, copy.screens = root, self.screens
        return copy

    @property
    def project(self) -> Project:
        """The project as its config stands now."""
        return Project(load(project_layers(self.root)), self.root)

    def draw_data(self) -> None:
        """Raw screens in ShowUI's and ScreenSpot's layouts."""
        records, rows = [], []
        for index in range(self.screens):
            image, boxes = draw_screen(random.Random(f"train {index}"), WIDTH, HEIGHT)
            save(image, self.root / f"data/screens/images/{index}.png")
            elements = [
                {"instruction": box["label"], "bbox": box["xyxy"], "data_type": "text"}
                for box in boxes
            ]
            records.append(
                {"img_url": f"{index}.png", "img_size": [WIDTH, HEIGHT], "element": elements}
            )
            image, boxes = draw_screen(random.Random(f"test {index}"), WIDTH, HEIGHT)
            save(image, self.root / f"data/held_out/screenspotv2_image/{index}.png")
            left, top, right, bottom = boxes[0]["xyxy"]
            box = [left * WIDTH, top * HEIGHT, (right - left) * WIDTH, (bottom - top) * HEIGHT]
            rows.append(
                {
                    "img_filename": f"{index}.png",
                    "bbox": [round(value) for value in box],
                    "instruction": boxes[0]["label"],
                    "data_type": "text",
                }
            )
        write_json(self.root / "data/screens/metadata/hf_train.json", records)
        write_json(self.root / "data/held_out/screenspot_web_v2.json", rows)

    def write_base(self) -> None:
        """A base model's folder: a real tokenizer, and tensors with the family's names."""
        folder = self.root / "data" / "base"
        folder.mkdir(parents=True)
        screens = [
            draw_screen(random.Random(f"train {index}"), WIDTH, HEIGHT)[1]
            for index in range(self.screens)
        ]
        medium = {"kind": "image", "path": "", "width": WIDTH, "height": HEIGHT, "sha256": ""}
        samples = [
            Sample.from_json(
                {"id": "", "dataset": "", "media": [medium], "boxes": boxes, "points": []}
            )
            for boxes in screens
        ]
        options = {"prompt": "", "answer": {"decimals": 2}}
        conversations = [grounding.conversation(sample, options) for sample in samples]
        train_tokenizer(conversations, VOCABULARY).save(str(folder / "tokenizer.json"))
        write_json(
            folder / "config.json",
            {
                "hidden_size": HIDDEN,
                "intermediate_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "vocab_size": VOCABULARY,
                "vision_config": {"depth": 2, "embed_dim": 8, "mlp_ratio": 2},
            },
        )
        shapes = {
            "model.embed_tokens.weight": (VOCABULARY, HIDDEN),
            "model.layers.0.self_attn.q_proj.weight": (HIDDEN, HIDDEN),
            "model.layers.0.mlp.up_proj.weight": (32, HIDDEN),
            "model.norm.weight": (HIDDEN,),
            "visual.blocks.0.attn.qkv.weight": (24, 8),
            "visual.merger.mlp.0.weight": (32, 32),
        }
        tensors = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        save_file(tensors, folder / "model.safetensors")

    def make_data(self) -> SmallProject:
        """Everything up to the plans, by the rules' programs."""
        project = self.project
        for (name,), options in project.fetch.items():
            program(
                "fetch_dataset",
                *("--dataset", name, "--options", canonical_json(options)),
                *("--raw", paths.raw(name), "--lock", paths.lock(name)),
                *("--files", f"results/raw/{name}.files.tsv"),
            )
        for (name,), options in project.source_models.fetch.items():
            program(
                "fetch_model",
                *("--model", name, "--options", canonical_json(options)),
                *("--raw", paths.model_folder(name), "--lock", paths.model_lock(name)),
                *("--files", f"results/raw/models/{name}.files.tsv"),
            )
        for (name,), options in project.convert.items():
            folder = f"results/converted/{name}"
            program(
                "convert_dataset",
                *("--dataset", name, "--options", canonical_json(options), "--threads", "1"),
                *("--raw", paths.raw(name), "--lock", paths.lock(name)),
                *("--manifest", paths.converted(name), "--rejects", f"{folder}/rejects.jsonl"),
            )
        for key, options in project.decide.items():
            self.filter(*key, options)
        for key, options in project.tokenize.items():
            self.tokenise(project, *key, options)
        for key, options in project.plan.items():
            manifests = [paths.tokens(d.dataset, d.tokens) for d in project.stage_data[key]]
            plan = paths.plan(*key).removesuffix(".json")
            program(
                "plan_stage",
                *("--options", canonical_json(options), "--tokens", *manifests),
                *("--plan", f"{plan}.json", "--parquet", f"{plan}.parquet"),
                *("--rejects", f"{plan}.rejects.jsonl"),
            )
        return self

    def filter(self, dataset: str, variant: str, options: dict[str, Any]) -> None:
        """Decide, write the image shards, list them."""
        folder = f"results/filtered/{dataset}/{variant}"
        decisions = f"{folder}/decisions.json"
        program(
            "decide_filters",
            *("--dataset", dataset, "--variant", variant, "--options", canonical_json(options)),
            *("--converted", "results/converted", "--raw", "results/raw"),
            *("--scores", f"results/scores/{dataset}"),
            *("--decisions", decisions, "--threads", "1"),
        )
        for shard in read_json(Path(decisions))["shards"]:
            program(
                "write_image_shard",
                *("--dataset", dataset, "--shard", shard["shard"], "--decisions", decisions),
                *("--converted", f"results/converted/{dataset}", "--raw", paths.raw(dataset)),
                *("--output", f"{folder}/shard-{shard['shard']}.tar"),
            )
        program(
            "write_filter_manifest",
            *("--decisions", decisions, "--folder", folder),
            *("--manifest", f"{folder}/manifest.json", "--report", f"{folder}/report.json"),
            *("--rejects", f"{folder}/rejects.jsonl"),
        )

    def tokenise(
        self, project: Project, dataset: str, variant: str, options: dict[str, Any]
    ) -> None:
        """Tokenise each image shard, list the token shards."""
        filtered = Path(paths.filtered(dataset, project.filter_of[dataset, variant]))
        folder = f"results/tokens/{dataset}/{variant}"
        for shard in read_json(filtered)["shards"]:
            stem = f"{folder}/{shard['name'].removesuffix('.tar')}"
            program(
                "tokenize_shard",
                *("--options", canonical_json(options)),
                *("--shard", str(filtered.with_name(shard["name"]))),
                *("--model", paths.model_folder(project.model_of["tokens", variant])),
                *("--output", f"{stem}.tar", "--index", f"{stem}.index.parquet"),
                *("--rejects", f"{stem}.rejects.jsonl"),
            )
        program(
            "write_token_manifest",
            *("--dataset", dataset, "--variant", variant, "--options", canonical_json(options)),
            *("--filtered", str(filtered), "--folder", folder),
            *("--manifest", f"{folder}/manifest.json", "--rejects", f"{folder}/rejects.jsonl"),
        )

    def make_models(self) -> SmallProject:
        """Made-up results and exports of both stages, named by their real keys."""
        for stage in ("sft", "adapt"):
            key = self.key(stage)
            folder = Path(f"results/checkpoints/small/{stage}")
            final = folder / "work" / key / "final"
            final.mkdir(parents=True)
            (final / "model.safetensors").write_bytes(key.encode() * 100)
            rows = journal_rows(5, 1e-3, 1.7e9)
            for row in rows:
                row["metrics"]["tokens_per_second"] = 1000.0 + row["step"]
            write_jsonl(folder / "work" / key / "metrics.jsonl", rows)
            plan = Path(paths.plan("small", stage))
            name = f"work/{key}/final/model.safetensors"
            result = {
                **{"stage": "train", "recipe": "small", "name": stage, "key": key, "kind": "full"},
                **{"steps": 5, "first_loss": 3.0, "final_loss": 1.0},
                "weights": [file_entry(final / "model.safetensors", name)],
                "plan_sha256": sha256_file(plan),
                "versions": {"pillow": "0.0.1"},
            }
            write_json(folder / "result.json", result)
            for kind in self.project.exports("small", stage):
                export = Path(paths.model_of_lock(paths.export("small", stage, kind)))
                export.mkdir(parents=True)
                (export / "model.safetensors").write_bytes(f"{kind} {key}".encode())
                files = [file_entry(export / "model.safetensors")]
                manifest = {"stage": "export", "kind": kind, "name": stage, "files": files}
                write_json(export.with_name(f"{kind}.json"), manifest)
        return self

    def make_answers(self) -> SmallProject:
        """Items that every model answered."""
        manifest = Path(paths.converted("held_out"))
        samples = list(read_jsonl(manifest.with_name("samples-00000.jsonl.zst")))
        for model in ("base", "sft", "adapt"):
            rows = [
                {
                    **{"item": f"{sample['id']}#0", "hit": model != "base", "point": [0.5, 0.5]},
                    **{"box": [0.4, 0.4, 0.6, 0.6], "cell": "web/text", "answer": "[0.5, 0.5]"},
                    "question": sample["boxes"][0]["label"],
                }
                for sample in samples
            ]
            write_jsonl(Path(f"results/evals/small/{model}/held_out/items.jsonl"), rows)
        return self

    def key(self, stage: str) -> str:
        """The name of a stage's work folder."""
        project = self.project
        kind, name = project.initial_model("small", stage)
        model = paths.model_lock(name) if kind == "model" else paths.export("small", name, "merged")
        options = project.train["small", stage]
        code = short_hash(dag.code("train_stage", options))
        return work_key(options, Path(paths.plan("small", stage)), Path(model), code)


def program(name: str, *words: str) -> None:
    """Run a rule's program in this process."""
    importlib.import_module(name).main(list(words))


def save(image: Any, path: Path) -> None:
    """Write an image, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
