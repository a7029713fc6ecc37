"""Drawn conversations about pictures of the sizes that real ones have, as image shards.

The kinds are those of `plan.KINDS`: screens with short questions, photographs with captions, web
pages and agents' screens with long texts, and text alone. Screens are flat with lines of text,
photographs have the statistics of real ones (`audit`), so that they compress like them.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from audit import scene
from PIL import Image, ImageDraw, ImageFont
from plan import KINDS, Kind

from shardline.families import qwen2_vl as family
from shardline.files import canonical_json, file_entry, sha256_bytes, write_json
from shardline.image_shards import sample_key
from shardline.samples import Medium, Sample
from shardline.shards import write_shard

Made = tuple[Sample, bytes | None]
PHOTOGRAPHS = KINDS[1]
SCREENS = Kind(1.0, {(2352, 1792): 1}, KINDS[0].characters)  # 1,344 visual tokens
SCENES = 3  # pictures of a size before they are shifted
LIMITS = {"min_visual_tokens": 4, "max_visual_tokens": 1344}
PIXELS = {"min_pixels": "min_visual_tokens", "max_pixels": "max_visual_tokens"}
WORDS = (
    "open the settings page and choose which account receives mail about new orders from "
    "customers who asked for a reply before Friday then close every window but this one"
)


def conversations(kinds: Sequence[Kind], count: int, dataset: str = "mix") -> list[Made]:
    """``count`` samples with their pictures' files, of kinds drawn by their shares."""
    rng = np.random.default_rng(0)
    shares = np.array([kind.share for kind in kinds])
    made: list[Made] = []
    for number, place in enumerate(rng.choice(len(kinds), count, p=shares / shares.sum())):
        kind = kinds[place]
        deciles = np.linspace(0, 1, len(kind.characters))
        characters = int(np.interp(rng.random(), deciles, kind.characters))
        media, data = [], None
        if kind.pictures:
            often = np.array(list(kind.pictures.values()))
            size = list(kind.pictures)[rng.choice(len(often), p=often / often.sum())]
            data = _picture(size, kind is PHOTOGRAPHS, number)
            path = f"{number}.{'jpg' if kind is PHOTOGRAPHS else 'png'}"
            digest = sha256_bytes(data)
            media = [Medium(kind="image", path=path, width=size[0], height=size[1], sha256=digest)]
        messages = _talk(rng, characters, len(media))
        name = f"{dataset}:rows.jsonl#{number}"
        made.append((Sample(id=name, dataset=dataset, media=media, messages=messages), data))
    return made


def _talk(rng: np.random.Generator, characters: int, images: int) -> list[dict]:
    """A question of a third of the characters and its answer."""
    words = rng.choice(WORDS.split(), max(characters // 5, 2)).tolist()
    third = max(len(words) // 3, 1)
    question = [{"type": "image"}] * images + [{"type": "text", "text": " ".join(words[:third])}]
    return [
        {"role": "user", "content": question},
        {"role": "assistant", "content": [{"type": "text", "text": " ".join(words[third:])}]},
    ]


def write_filtered(results: Path, made: Sequence[Made], dataset: str = "mix") -> Path:
    """Image shards, one a kind of file, and their manifest; as the filter stage writes them."""
    folder = results / f"filtered/{dataset}/all"
    kinds: dict[str, list[Made]] = {}
    for sample, data in made:
        suffix = Path(sample.media[0].path).suffix if sample.media else ".text"
        kinds.setdefault(suffix[1:], []).append((sample, data))
    shards = []
    for suffix, part in sorted(kinds.items()):
        path = folder / f"shard-00000-{suffix}.tar"
        write_shard(path, [(sample_key(s.id), _members(s, suffix, data)) for s, data in part])
        shards.append({**file_entry(path), "samples": len(part)})
    counts = {"in": len(made), "kept": len(made), "rejected": 0}
    write_json(
        folder / "manifest.json",
        {"stage": "filter", "dataset": dataset, "samples": counts, "shards": shards},
    )
    return folder / "manifest.json"


def write_model(folder: Path, made: Sequence[Made]) -> None:
    """A tiny model with a tokenizer of the samples' words and the processor of transformers."""
    config = json.loads(Path("config/models/tiny_qwen2_vl.json").read_text())
    config["image_processor"] = {key: 784 * LIMITS[value] for key, value in PIXELS.items()}
    tokenizer = family.train_tokenizer([sample.messages for sample, _ in made], 1000)
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    family.build_model(config, tokenizer, folder, seed=0)


def _members(sample: Sample, suffix: str, data: bytes | None) -> list[tuple[str, bytes]]:
    head = {"id": sample.id, "dataset": sample.dataset}
    head["sample"] = canonical_json(sample.to_json())
    members = [("json", canonical_json(head).encode())]
    return members if data is None else [*members, (f"0.{suffix}", data)]


def _picture(size: tuple[int, int], photograph: bool, number: int) -> bytes:
    """A file whose picture is one of a few, shifted by an amount of its own."""
    scenes = _photographs(size) if photograph else _screens(size)
    scene = scenes[number % len(scenes)]
    pixels = np.roll(scene, (37 * number % size[1], 53 * number % size[0]), (0, 1))
    file = io.BytesIO()
    if photograph:
        Image.fromarray(pixels).save(file, "JPEG", quality=90)
    else:
        Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@cache
def _photographs(size: tuple[int, int]) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 4, (size[1], size[0], 3))
    scenes = [scene(rng, *size) + noise for _ in range(SCENES)]
    return [np.clip(pixels, 0, 255).astype(np.uint8) for pixels in scenes]


@cache
def _screens(size: tuple[int, int]) -> list[np.ndarray]:
    """Windows with lines of text on a shaded wallpaper."""
    rng = np.random.default_rng(2)
    return [_screen(rng, *size) for _ in range(SCENES)]


def _screen(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    shade = np.stack([255 * x / width, 255 * y / height, np.full(x.shape, 128)], -1)
    image = Image.fromarray(shade.astype(np.uint8))
    draw = ImageDraw.Draw(image)
    line = height // 60
    font = ImageFont.load_default(line)
    for _ in range(5):
        left, top = rng.integers(0, width // 2), rng.integers(0, height // 2)
        right, bottom = left + width // 2, top + height // 2
        draw.rectangle((left, top, right, bottom), fill=(250, 250, 250), outline=(90, 90, 90))
        for place in range(top + line, bottom - line, 3 * line // 2):
            words = rng.choice(WORDS.split(), width // (20 * line)).tolist()
            draw.text((left + line, place), " ".join(words), fill=(20, 20, 20), font=font)
    return np.asarray(image)
