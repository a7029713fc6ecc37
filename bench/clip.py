"""CLIP scores of photographs against a loop of one image after the other, the same model for both.

The model is a ViT-B/32 of random weights: the arithmetic does not know. The loop is what
VaseVQA-3D's scripts do: open, prepare and embed an image, then the next, with torch's threads on
every core. The floor is the model's arithmetic at the rate of one core's matrix product, plus
decoding and resizing, both divided by the cores.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from shardline import clip, lean
from shardline.parallel import Workers
from shardline.scoring import Run

MODEL = "ViT-B-32"
SIZE = (1280, 960)  # pixels of a photograph
ROUNDS = 3  # ours and theirs take turns, for what else the machine does to strike both
SIDE = 2048  # of the matrices that show what a core can do


def measure(images: int = 144, workers: int = 2, device: str = "cpu") -> dict[str, float]:
    """Images a second of ours, the loop and the floor; ``clip.ratio`` is ours by theirs."""
    with tempfile.TemporaryDirectory() as name, Workers(workers) as pool:
        folder = Path(name)
        files = _write_photographs(folder / "photographs", images)
        run = Run(model=_write_model(folder), device=device, threads=workers, workers=pool)
        model = clip.load_clip(run.model, device)
        list(clip.embed_images(model, files[: 2 * workers], run))  # starts the processes
        ours = theirs = 0.0
        for turn in range(ROUNDS):
            batch = files[turn::ROUNDS]
            theirs += _seconds_of_loop(model, batch, workers)
            ours += _seconds_of_ours(model, batch, run)
        decoding, arithmetic = _floor(model, files[:8])
    floor = (decoding + arithmetic) / workers
    return {
        "clip.images": images,
        "clip.images_per_second": round(images / ours, 2),
        "clip.loop_images_per_second": round(images / theirs, 2),
        "clip.ratio": round(theirs / ours, 2),
        "clip.core_ms_an_image_decoding": round(1000 * decoding, 1),
        "clip.core_ms_an_image_arithmetic": round(1000 * arithmetic, 1),
        "clip.floor_images_per_second": round(1 / floor, 2),
        "clip.share_of_floor": round(floor * images / ours, 2),
    }


def _seconds_of_ours(model: clip.Clip, files: Sequence[Path], run: Run) -> float:
    begin = time.perf_counter()
    found = list(clip.embed_images(model, files, run))
    seconds = time.perf_counter() - begin
    assert len(found) == len(files)
    return seconds


def _seconds_of_loop(model: clip.Clip, files: Sequence[Path], threads: int) -> float:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    begin = time.perf_counter()
    for file in files:
        with Image.open(file) as image, torch.no_grad():
            pixels = model.transform(image)[None].to(model.device)
            embedding = model.embed_pixels(pixels)
            (embedding / embedding.norm(dim=-1, keepdim=True)).cpu()
    seconds = time.perf_counter() - begin
    torch.set_num_threads(before)
    return seconds


def _floor(model: clip.Clip, files: Sequence[Path]) -> tuple[float, float]:
    """Seconds of one core for an image: decoding and resizing, and the model's arithmetic."""
    begin = time.perf_counter()
    for file in files:
        with Image.open(file) as image:
            pixels = model.transform(image)
    decoding = (time.perf_counter() - begin) / len(files)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.embed_pixels(pixels[None].to(model.device))
    matrix = torch.rand(SIDE, SIDE)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    matrix @ matrix
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        matrix @ matrix
        seconds.append(time.perf_counter() - begin)
    torch.set_num_threads(threads)
    return decoding, counter.get_total_flops() * min(seconds) / (2 * SIDE**3)


def _write_model(folder: Path) -> Path:
    """A folder as open_clip's models have it on the hub."""
    lean.without(*lean.HEAVY)
    import open_clip
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = open_clip.create_model(MODEL)
    pixels = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    content = {"model_cfg": open_clip.get_model_config(MODEL), "preprocess_cfg": pixels}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


def _write_photographs(folder: Path, images: int) -> list[Path]:
    """JPEGs of coarse random colours under fine noise, each another part of one large picture."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (90, 120, 3), dtype=np.uint8))
    large = np.asarray(coarse.resize((2 * SIZE[0], 2 * SIZE[1]), Image.Resampling.BICUBIC))
    noise = rng.normal(0, 5, large.shape)
    large = np.clip(large + noise, 0, 255).astype(np.uint8)
    files = []
    for number in range(images):
        left, top = rng.integers(0, SIZE)
        picture = Image.fromarray(large[top : top + SIZE[1], left : left + SIZE[0]])
        files.append(folder / f"{number:04d}.jpg")
        picture.save(files[-1], quality=90)
    return files


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
