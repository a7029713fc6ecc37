"""Small datasets for the stages from tokenising to loading, made as the earlier stages would."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

import plan_stage
import tokenize_shard
import write_token_manifest
from converted_rows import write_rows
from raw_datasets import video
from shardline.families import qwen2_vl
from shardline.files import canonical_json, file_entry, sha256_bytes, write_json
from shardline.image_shards import sample_key
from shardline.samples import Box, Medium, Sample
from shardline.series import extensions, series_of
from shardline.shards import write_shard

OPTIONS = {
    "family": "qwen2_vl",
    "task": "grounding",
    "tokens": {
        "min_visual_tokens": 4,
        "max_visual_tokens": 64,
        "answer": {"decimals": 2},
        "video": {
            "interval": 2.0,
            "min_frames": 4,
            "max_frames": 8,
            "min_visual_tokens": 4,
            "max_visual_tokens": 64,
        },
        "loss": "answers",
        "prompt": "",
        "seed": 0,
    },
    "plugins": [],
}
LABELS = ("Save", "Cancel", "Search mail", "Sign in", "Schließen", "設定", "Page 12")


def screens(count: int, dataset: str = "screens", seed: int = 0) -> list[tuple[Sample, bytes]]:
    """Samples of 1 to 5 boxes, and the PNG file of each one's screen."""
    random_state = random.Random(f"{dataset}:{seed}")
    made = []
    for number in range(count):
        width, height = random_state.randrange(60, 300), random_state.randrange(60, 300)
        image = Image.new("RGB", (width, height), tuple(random_state.choices(range(256), k=3)))
        boxes = []
        for _ in range(random_state.randrange(1, 6)):
            x, y = random_state.randrange(width - 20), random_state.randrange(height - 20)
            ImageDraw.Draw(image).rectangle((x, y, x + 19, y + 19), fill="white", outline="red")
            label = random_state.choice(LABELS)
            boxes.append(Box(label=label, xyxy=[x, y, x + 20, y + 20], kind="icon"))
        made.append(sample_of(image, boxes, f"{dataset}:annotations.json#{number}", dataset))
    return made


def sample_of(
    image: Image.Image, boxes: list[Box], name: str, dataset: str = "screens"
) -> tuple[Sample, bytes]:
    """A sample in pixels with one PNG image."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    medium = Medium(
        kind="image",
        path=f"{sha256_bytes(name.encode())[:8]}.png",
        width=image.width,
        height=image.height,
        sha256=sha256_bytes(buffer.getvalue()),
    )
    sample = Sample(id=name, dataset=dataset, media=[medium], boxes=boxes, frame="pixel")
    return sample, buffer.getvalue()


def talks(
    shapes: Sequence[tuple[int, Sequence[tuple[int, ...]]]], dataset: str = "talks", first: int = 0
) -> list[tuple[Sample, list[bytes]]]:
    """Conversations about plain pictures and drawn videos, and the PNG and MP4 files of each.

    Args:
        shapes: of each, the letters of its answer, and its media: width and height of a picture,
            width, height and frames of a video.
        first: number of the first.
    """
    made = []
    for number, (letters, sizes) in enumerate(shapes, start=first):
        random_state = random.Random(f"{dataset}:{number}")
        kinds = ["image" if len(size) == 2 else "video" for size in sizes]
        parts: list[dict[str, Any]] = [{"type": kind} for kind in kinds]
        question = "".join(random_state.choices("bcdfgh", k=random_state.randrange(1, 9)))
        answer = "".join(random_state.choices("bcdfghjklmnp", k=letters))
        files = [
            plain_png(size, random_state.choices(range(256), k=3))
            if len(size) == 2
            else video("mp4", "mpeg4", size[:2], frames=size[2], rate=1)
            for size in sizes
        ]
        sample = Sample(
            id=f"{dataset}:talks.json#{number}",
            dataset=dataset,
            media=[
                Medium(
                    kind=kind,
                    path=f"{number}-{place}.{'png' if kind == 'image' else 'mp4'}",
                    width=size[0],
                    height=size[1],
                    sha256=sha256_bytes(data),
                )
                for place, (kind, size, data) in enumerate(zip(kinds, sizes, files, strict=True))
            ],
            meta={"media": [_timing(size) for size in sizes]} if "video" in kinds else {},
            messages=[
                {"role": "user", "content": [*parts, {"type": "text", "text": question}]},
                {"role": "assistant", "content": [{"type": "text", "text": answer}]},
            ],
        )
        made.append((sample, files))
    return made


def _timing(size: Sequence[int]) -> dict[str, float]:
    """What is known of a video beside its size: a frame a second."""
    return {"frames": size[2], "fps": 1.0, "duration": float(size[2])} if len(size) > 2 else {}


def plain_png(size: tuple[int, int], colour: Sequence[int]) -> bytes:
    """A picture of one colour as a PNG file."""
    buffer = io.BytesIO()
    Image.new("RGB", size, tuple(colour)).save(buffer, "PNG")
    return buffer.getvalue()


def write_filtered(
    results: Path, samples: Sequence[tuple[Sample, bytes | list[bytes]]], shard_size: int = 7
) -> Path:
    """Image shards and manifest of a dataset, under ``filtered/<dataset>/all``.

    As the workflow does, each block of ``shard_size`` rows has a shard for each kind of media.

    Args:
        samples: each with its file, or with a list of its files.
    """
    dataset = samples[0][0].dataset
    folder = results / "filtered" / dataset / "all"
    series: dict[str, list[tuple[Sample, bytes | list[bytes]]]] = {}
    for number, (sample, files) in enumerate(samples):
        name = f"{number // shard_size:05}-{series_of(sample)}"
        series.setdefault(name, []).append((sample, files))
    shards = []
    for name, part in sorted(series.items()):
        path = folder / f"shard-{name}.tar"
        write_shard(
            path, [(sample_key(sample.id), _members(sample, files)) for sample, files in part]
        )
        shards.append({**file_entry(path), "samples": len(part)})
    kept = {"in": len(samples), "kept": len(samples), "rejected": 0}
    write_json(
        folder / "manifest.json",
        {"stage": "filter", "dataset": dataset, "samples": kept, "shards": shards},
    )
    return folder / "manifest.json"


def _members(sample: Sample, files: bytes | list[bytes]) -> list[tuple[str, bytes]]:
    head = {"id": sample.id, "dataset": sample.dataset}
    head["sample"] = canonical_json(sample.to_json())
    files = [files] if isinstance(files, bytes) else files
    media = zip(extensions(sample), files, strict=True)
    return [
        ("json", canonical_json(head).encode()),
        *((f"{number}.{extension}", data) for number, (extension, data) in enumerate(media)),
    ]


def write_converted(results: Path, samples: Sequence[tuple[Sample, bytes]]) -> Path:
    """Canonical samples and manifest of a dataset."""
    dataset = samples[0][0].dataset
    folder = results / "converted" / dataset
    write_rows(folder / "samples-00000.jsonl.zst", [sample.to_json() for sample, _ in samples])
    write_json(
        folder / "manifest.json",
        {"dataset": dataset, "shards": [{"name": "samples-00000.jsonl.zst"}]},
    )
    return folder / "manifest.json"


def tokenizer_folder(results: Path, vocab_size: int = 320) -> Path:
    """A model folder with only a tokenizer."""
    folder = results / "raw" / "models" / "tiny"
    folder.mkdir(parents=True, exist_ok=True)
    answers = [f"[0.{number}, 0.5]" for number in range(10)]
    talk = [
        [{"role": "user", "content": label}, {"role": "assistant", "content": answer}]
        for label in LABELS
        for answer in answers
    ]
    qwen2_vl.train_tokenizer(talk, vocab_size).save(str(folder / "tokenizer.json"))
    return folder


def tokenise(
    filtered: Path,
    model: Path,
    variant: str = "tiny",
    options: dict[str, Any] | None = None,
    **tokens: Any,
) -> Path:
    """Run the tokenising programs over a dataset; returns the token manifest.

    Args:
        options: of the programs, instead of `OPTIONS` with ``tokens`` changed.
    """
    dataset = filtered.parent.parent.name
    folder = filtered.parents[3] / "tokens" / dataset / variant
    options = json.dumps(options or {**OPTIONS, "tokens": {**OPTIONS["tokens"], **tokens}})
    for shard in sorted(filtered.parent.glob("shard-*.tar")):
        arguments = {
            "options": options,
            "shard": shard,
            "model": model,
            "output": folder / shard.name,
            "index": folder / f"{shard.stem}.index.parquet",
            "rejects": folder / f"{shard.stem}.rejects.jsonl",
        }
        tokenize_shard.main(command_line(arguments))
    arguments = {
        "dataset": dataset,
        "variant": variant,
        "options": options,
        "filtered": filtered,
        "folder": folder,
        "manifest": folder / "manifest.json",
        "rejects": folder / "rejects.jsonl",
    }
    write_token_manifest.main(command_line(arguments))
    return folder / "manifest.json"


def plan(results: Path, manifests: Sequence[Path], stage: str = "sft", **changes: Any) -> Path:
    """Run the planning program; returns the plan's summary file."""
    folder = results / "plans" / "demo"
    arguments = {
        "options": json.dumps(plan_options(manifests, stage, **changes)),
        "plan": folder / f"{stage}.json",
        "parquet": folder / f"{stage}.parquet",
        "rejects": folder / f"{stage}.rejects.jsonl",
    }
    plan_stage.main([*command_line(arguments), "--tokens", *map(str, manifests)])
    return folder / f"{stage}.json"


def plan_options(manifests: Sequence[Path], stage: str = "sft", **changes: Any) -> dict[str, Any]:
    """The options of a plan over whole datasets for one epoch."""
    return {
        "recipe": "demo",
        "stage": stage,
        "method": "sft",
        "family": "qwen2_vl",
        "seed": 0,
        "mixture": [{"dataset": path.parent.parent.name, "percent": 100} for path in manifests],
        "global_batch": {"samples": 8},
        "steps": None,
        "epochs": 1.0,
        "max_length": 256,
        **changes,
    }


def command_line(arguments: dict[str, Any]) -> list[str]:
    """``{"plan": path}`` as ``["--plan", "path"]``."""
    return [word for name, value in arguments.items() for word in (f"--{name}", str(value))]


def files_under(folder: Path) -> dict[str, bytes]:
    """Every file below a folder that is not hidden, by relative path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }
