"""Tokenising against the processor of transformers, sample by sample, on one core.

``tokenise.ratio`` compares what is done to a decoded sample: theirs is the chat template and the
processor with tensors returned, ours is `tokenise_sample` and the members of its shard, pictures
encoded. Both outputs are compared. ``pipeline.ratio`` is from the filtered shard to a plan:
ours are the programs with all that they read, decode and write; theirs opens each picture, calls
the processor, counts the tokens and fills packs first fit. ``pipeline.estimate_ratio`` is the same
with what `shardline estimate` does for ours: texts tokenised, pictures known by their sizes, packed
as the plan will be.

The floor is what our output cannot be made without: resizing and compressing, and for the
pipeline decoding too. All times are processor seconds of one thread.
"""

from __future__ import annotations

import io
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from conversations import LIMITS, Made, conversations, write_filtered, write_model
from PIL import Image
from plan import KINDS

from shardline import plan as planning
from shardline.estimate import estimate_stage
from shardline.families import qwen2_vl as family
from shardline.files import canonical_json, write_json, write_parts
from shardline.pictures import Pictures
from shardline.pixels import decode_pixels
from shardline.placeholders import placeholder_ids
from shardline.png import encode_png
from shardline.tasks import chat
from shardline.token_manifest import write_token_manifest
from shardline.tokenising import shard_members, tokenise_sample, tokenise_shard

SAMPLES = 120
MAX_LENGTH = 8192
TOKENS = {**LIMITS, "loss": "answers"}
PLAN = {
    **{"recipe": "bench", "stage": "plan", "method": "sft", "family": "qwen2_vl", "seed": 0},
    **{"mixture": [{"dataset": "mix", "percent": 100}], "steps": None, "epochs": 1.0},
    **{"max_length": MAX_LENGTH, "global_batch": {"tokens": MAX_LENGTH}},
}
Processor = Any


def measure(samples: int = SAMPLES) -> dict[str, float]:
    """Samples a second and core of ours, the processor and the floor, and their ratios."""
    torch.set_num_threads(1)
    made = conversations(KINDS, samples)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, "raw/models/tiny")
        write_model(model, made)
        figures = _tokenise(made, model)
        figures |= _pipeline(made, model, Path(folder))
    return figures


def _tokenise(made: Sequence[Made], model: Path) -> dict[str, float]:
    processor = processor_of(model)
    tokenizer = family.load_tokenizer(model)
    seconds = dict.fromkeys(("ours", "theirs", "our decoding", "their decoding", "floor"), 0.0)
    stored = 0
    for sample, data in made:
        ours = _timed(seconds, "our decoding", _pictures, data)
        theirs = _timed(seconds, "their decoding", _images, data)
        given = _timed(seconds, "theirs", _theirs, processor, sample, theirs)
        members = _timed(seconds, "ours", _members, sample, ours, tokenizer)
        _timed(seconds, "floor", _floor, ours)
        _compare(_ours(sample, ours, tokenizer), given, tokenizer)
        stored += sum(len(content) for _, content in members)
    ours, theirs, floor = (seconds[name] for name in ("ours", "theirs", "floor"))
    return {
        "tokenise.samples": len(made),
        "tokenise.samples_per_second_per_core": round(len(made) / ours, 1),
        "tokenise.processor_samples_per_second_per_core": round(len(made) / theirs, 1),
        "tokenise.floor_samples_per_second_per_core": round(len(made) / floor, 1),
        "tokenise.ratio": round(theirs / ours, 2),
        "tokenise.share_of_floor": round(floor / ours, 2),
        "tokenise.ratio_with_decoding": round(
            (theirs + seconds["their decoding"]) / (ours + seconds["our decoding"]), 2
        ),
        "tokenise.kilobytes_a_sample": round(stored / len(made) / 1000),
    }


def _pipeline(made: Sequence[Made], model: Path, results: Path) -> dict[str, float]:
    filtered = write_filtered(results, made)
    processor = processor_of(model)
    converted = results / "converted/manifest.json"
    rows = "".join(canonical_json(sample.to_json()) + "\n" for sample, _ in made)
    write_parts(converted.with_name("samples.jsonl"), [rows.encode()])
    write_json(converted, {"shards": [{"name": "samples.jsonl"}]})
    seconds = dict.fromkeys(("ours", "theirs", "decoding", "estimate"), 0.0)
    _timed(seconds, "theirs", _count_and_pack, processor, made)
    _timed(seconds, "ours", run_tokenising, filtered, model, results)
    _timed(seconds, "ours", run_planning, results)
    for _, data in made:
        _timed(seconds, "decoding", _pictures, data)
    _timed(seconds, "estimate", _estimate, converted, family.load_tokenizer(model))
    ours, theirs, decoding, estimate = seconds.values()
    return {
        "pipeline.samples_per_second_per_core": round(len(made) / ours, 1),
        "pipeline.counting_samples_per_second_per_core": round(len(made) / theirs, 1),
        "pipeline.decoding_samples_per_second_per_core": round(len(made) / decoding, 1),
        "pipeline.ratio": round(theirs / ours, 2),
        "pipeline.estimate_samples_per_second_per_core": round(len(made) / estimate, 1),
        "pipeline.estimate_ratio": round(theirs / estimate, 2),
    }


def processor_of(model: Path) -> Processor:
    """The processor of transformers that a model's folder has."""
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(model)


def _pictures(data: bytes | None) -> list[Pictures]:
    if data is None:
        return []
    return [Pictures([decode_pixels(data)])]


def _ours(sample: Any, pictures: Sequence[Pictures], tokenizer: Any) -> Any:
    return tokenise_sample(
        sample, pictures, family=family, task=chat, tokenizer=tokenizer, options=TOKENS
    )


def _members(sample: Any, pictures: Sequence[Pictures], tokenizer: Any) -> Any:
    return shard_members(sample, _ours(sample, pictures, tokenizer))


def _images(data: bytes | None) -> list[Image.Image]:
    return [] if data is None else [Image.open(io.BytesIO(data)).convert("RGB")]


def theirs_of(processor: Processor, sample: Any, data: bytes | None) -> Any:
    """What the processor makes of a sample and its picture's file."""
    return _theirs(processor, sample, _images(data))


def _theirs(processor: Processor, sample: Any, images: list[Image.Image]) -> Any:
    text = processor.apply_chat_template(sample.messages, tokenize=False)
    return processor(text=[text], images=images or None, return_tensors="pt")


def _floor(pictures: Sequence[Pictures]) -> None:
    for part in pictures:
        grid = family.image_grid(*part.size, *LIMITS.values())
        encode_png(family.resize_image(part.frames[0], grid))


def _compare(ours: Any, theirs: Any, tokenizer: Any) -> None:
    """Stop unless both are the same ids, grids and pixels."""
    ids, _ = family.expand(
        ours.input_ids, ours.labels, ours.grids, placeholder_ids(tokenizer, family)
    )
    images = [torch.from_numpy(image) for image in ours.images]
    pixels = family.vision_inputs(images, ours.grids, "cpu", torch.float32)
    same = ids.tolist() == theirs["input_ids"][0].tolist()
    if images:
        same &= pixels["image_grid_thw"].tolist() == theirs["image_grid_thw"].tolist()
        same &= torch.allclose(pixels["pixel_values"], theirs["pixel_values"], atol=1e-5)
    if not same:
        raise SystemExit("tokenise: a sample differs from the processor's")


def _timed(seconds: dict[str, float], name: str, work: Callable[..., Any], *given: Any) -> Any:
    """What the work returns; the processor seconds that it takes are added to ``name``."""
    begin = time.process_time()
    done = work(*given)
    seconds[name] += time.process_time() - begin
    return done


def run_tokenising(
    filtered: Path, model: Path, results: Path, tokens: Mapping[str, Any] = TOKENS
) -> Path:
    """Tokenise all image shards of a dataset; returns the tokens' manifest."""
    folder = results / "tokens/mix/bench"
    for shard in sorted(filtered.parent.glob("shard-*.tar")):
        tokenise_shard(
            shard,
            output=folder / shard.name,
            index=folder / f"{shard.stem}.index.parquet",
            rejects=folder / f"{shard.stem}.rejects.jsonl",
            family_name="qwen2_vl",
            family=family,
            task=chat,
            model=model,
            options=tokens,
        )
    write_token_manifest(
        "mix",
        "bench",
        filtered=filtered,
        folder=folder,
        manifest=folder / "manifest.json",
        rejects=folder / "rejects.jsonl",
    )
    return folder / "manifest.json"


def run_planning(results: Path) -> Path:
    """Plan an epoch of what `run_tokenising` wrote; returns the summary's path."""
    folder = results / "plans"
    planning.write_plan(
        [results / "tokens/mix/bench/manifest.json"],
        PLAN,
        family,
        plan=folder / "plan.json",
        parquet=folder / "plan.parquet",
        rejects=folder / "rejects.jsonl",
    )
    return folder / "plan.json"


def _estimate(converted: Path, tokenizer: Any) -> None:
    estimate_stage(
        {"mix": converted}, PLAN, family=family, task=chat, tokens=TOKENS, tokenizer=tokenizer
    )


def _count_and_pack(processor: Processor, made: Sequence[Made]) -> list[int]:
    """Tokens of each pack, filled first fit."""
    packs: list[int] = []
    for sample, data in made:
        length = theirs_of(processor, sample, data)["input_ids"].shape[1]
        for number, filled in enumerate(packs):
            if filled + length <= MAX_LENGTH:
                packs[number] += length
                break
        else:
            packs.append(length)
    return packs


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
