"""What the data stages of a small finished recipe leave: screens, converted samples, shards.

Screens are real images and the counts add up.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from converted_rows import write_rows
from shardline.files import sha256_bytes, sha256_file, write_json, write_jsonl

TRAIN, BENCHMARK, BASE = "screens_train", "screens_test", "tiny-0a1b2c3d"
FILTERED, TOKENS = "dedup-overlap-11aa22bb", "qwen2_vl-grounding-33cc44dd"
NAMES = ("Save", "Cancel", "Send", "Search", "Mail", "Trash")
COLOURS = ("#1ea03c", "#d71e28", "#1e5af0", "#ff8200", "#3ccdfa", "#5f3719")
Json = dict[str, Any]


class DataTree:
    """Writes below ``results`` what is there before a training."""

    def __init__(self, results: Path, screens: int) -> None:
        self.results = results
        self.screens = screens

    def json(self, name: str, value: Any) -> Path:
        """Write a JSON file below ``results``."""
        write_json(self.results / name, value)
        return self.results / name

    def write_data(self, name: str, seed: int, missing: int = 0) -> None:
        """Raw screens with their lock, and the converted samples; ``missing`` rows are rejects."""
        samples = []
        for index in range(self.screens):
            width, height = ((140, 112), (112, 140))[index % 2]
            image, boxes = draw_screen(random.Random(f"{seed}/{index}"), width, height)
            path = self.results / "raw" / name / "images" / f"{index:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
            medium = {
                "kind": "image",
                "path": f"images/{index:03d}.png",
                "sha256": sha256_file(path),
            }
            samples.append(
                {
                    "id": f"{name}:annotations.json#{index}",
                    "dataset": name,
                    "media": [medium | {"width": width, "height": height}],
                    "messages": [],
                    "boxes": boxes,
                    "points": [],
                    "frame": "unit",
                    "group": "",
                    "meta": {"cell": ("desktop/icon", "web/text")[index % 2]},
                }
            )
        shard = self.results / "converted" / name / "samples-00000.jsonl.zst"
        write_rows(shard, samples)
        boxes = sum(len(sample["boxes"]) for sample in samples)
        counts = {"in": self.screens + missing, "kept": self.screens, "rejected": missing}
        self.json(
            f"converted/{name}/manifest.json",
            {
                "stage": "convert",
                "dataset": name,
                "rows": counts,
                "elements": {"in": boxes + missing, "kept": boxes, "rejected": missing},
                "reasons": {"image missing": missing} if missing else {},
                "clipped": 3,
                "shards": [{"name": shard.name, "bytes": 1, "sha256": "", "samples": self.screens}],
                "versions": {"pillow": "13.0.0"},
            },
        )
        self.json(
            f"raw/{name}.lock.json",
            {
                "name": name,
                "kind": "dataset",
                "source": "generate:screens",
                "revision": None,
                "files": self.screens + 1,
                "bytes": 4321 * self.screens,
                "sha256": sha256_bytes(name.encode()),
            },
        )

    def write_filtered(self) -> None:
        """Decisions that reject one sample, and the manifests of image and token shards."""
        ids = [f"{TRAIN}:annotations.json#{index}" for index in range(self.screens)]
        folder = f"filtered/{TRAIN}/{FILTERED}"
        write_jsonl(
            self.results / folder / "decisions-00000-png.jsonl",
            [{"id": name, "kept": name != ids[3], "filter": "", "reason": ""} for name in ids],
        )
        counts = {"in": self.screens, "kept": self.screens - 1, "rejected": 1}
        shard = {"name": "shard-00000-png.tar", "bytes": 40960, "sha256": "", "samples": 1}
        filters = [
            {"name": "dedup", "options": {"distance": 4}, "rejected": 1},
            {"name": "overlap", "options": {"max_distance": 4, "limit": 0}, "rejected": 0},
        ]
        self.json(
            f"{folder}/manifest.json",
            {
                "stage": "filter",
                "dataset": TRAIN,
                "variant": FILTERED,
                "samples": counts,
                "reasons": {"duplicate": 1},
                "shards": [shard],
                "filters": filters,
                "versions": {"pillow": "13.0.0", "numpy": "2.4.0"},
            },
        )
        figures = {"benchmark_images": self.screens, "training_images": self.screens - 1}
        figures["matching_images"] = 0
        self.json(
            f"{folder}/report.json",
            {"filters": [entry | {"figures": figures} for entry in filters]},
        )
        kept = {"in": self.screens - 1, "kept": self.screens - 1, "rejected": 0}
        self.json(
            f"tokens/{TRAIN}/{TOKENS}/manifest.json",
            {
                "stage": "tokens",
                "samples": kept,
                "tokens": 120 * self.screens,
                "supervised_tokens": 40 * self.screens,
                "patches": 80 * self.screens,
                "reasons": {},
                "shards": [],
                "versions": {"tokenizers": "0.22.1"},
            },
        )

    def write_model_lock(self) -> None:
        """The lock of the base model."""
        self.json(
            f"raw/models/{BASE}.lock.json",
            {
                "name": BASE,
                "kind": "model",
                "source": "init:config/models/tiny.json",
                "revision": None,
                "files": 7,
                "bytes": 1_234_567,
                "sha256": sha256_bytes(BASE.encode()),
            },
        )


def draw_screen(draw: random.Random, width: int, height: int) -> tuple[Image.Image, list[Json]]:
    """A screen with three labelled rectangles, and their boxes as fractions."""
    image = Image.new("RGB", (width, height), draw.choice(("#dfe6ee", "#26303c", "#efe8dc")))
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 0, width, 9), fill="#7b8794")
    boxes = []
    for row, name in enumerate(draw.sample(NAMES, 3)):
        left, top = draw.randrange(4, width - 40), 16 + row * (height - 20) // 3 + draw.randrange(8)
        corners = (left, top, left + 34, top + 16)
        pen.rounded_rectangle(corners, 3, fill=COLOURS[NAMES.index(name)])
        pen.text((left + 4, top + 3), name, fill="white")
        xyxy = [left / width, top / height, corners[2] / width, corners[3] / height]
        boxes.append({"label": f"{name} button", "xyxy": xyxy, "kind": "text"})
    return image, boxes
