"""The image audit against a plain Pillow loop, both over the same full-HD JPEGs on two cores.

The floor is what no audit can leave out: to hash every byte, and to read every code of the
picture's data, which libjpeg does with the least arithmetic at an eighth of the size. It is
measured on one core, with the bytes in memory, and divided by the workers. Seconds are the clock's,
and those of ``audit.cpu_ratio`` the processors', which other programs disturb less.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from shardline.files import sha256_file
from shardline.locks import LockedFile
from shardline.media import Auditor
from shardline.parallel import Workers

WIDTH, HEIGHT = 1920, 1080
SCENES = 6  # pictures before they are shifted, so that no two files are alike
ROUNDS = 4  # ours and theirs take turns, for what else the machine does to strike both
MAX_PIXELS = 100_000_000


def measure(images: int = 320, workers: int = 2) -> dict[str, float]:
    """Images a second of the audit, the loop and the floor, and ``audit.ratio``: ours by theirs."""
    with tempfile.TemporaryDirectory() as folder:
        names = _write_photographs(Path(folder), images)
        locked = {
            name: LockedFile(os.path.getsize(f"{folder}/{name}"), sha256_file(Path(folder, name)))
            for name in names
        }
        ours = theirs = floor = 0.0
        cpu_theirs = 0.0
        cpu_ours = -_cpu_of_children()
        with Workers(workers) as pool:
            auditor = Auditor(Path(folder), locked, MAX_PIXELS, pool)
            for turn in range(ROUNDS):
                batch = names[turn::ROUNDS]
                cpu_theirs -= time.process_time()
                theirs += _seconds_of_loop(folder, batch)
                cpu_theirs += time.process_time()
                ours += _seconds_of_audit(auditor, batch)
                floor += _seconds_of_floor(folder, batch) / workers
        cpu_ours += _cpu_of_children()
        size = sum(entry.bytes for entry in locked.values())
    return {
        "audit.images": images,
        "audit.megabytes_an_image": round(size / images / 1e6, 2),
        "audit.images_per_s": round(images / ours, 1),
        "audit.pillow_images_per_s": round(images / theirs, 1),
        "audit.floor_images_per_s": round(images / floor, 1),
        "audit.ratio": round(theirs / ours, 2),
        "audit.cpu_ratio": round(cpu_theirs / cpu_ours, 2),
        "audit.share_of_floor": round(floor / ours, 2),
    }


def _cpu_of_children() -> float:
    """Processor seconds of the workers that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _seconds_of_audit(auditor: Auditor, names: Sequence[str]) -> float:
    begin = time.perf_counter()
    auditor.audit(names)
    seconds = time.perf_counter() - begin
    for name in names:
        auditor.check(name, WIDTH, HEIGHT, in_pixels=True)
    return seconds


def _seconds_of_loop(folder: str, names: Sequence[str]) -> float:
    begin = time.perf_counter()
    for name in names:
        with Image.open(f"{folder}/{name}") as image:
            image.load()
            image.convert("RGB")
        with open(f"{folder}/{name}", "rb") as file:
            hashlib.file_digest(file, "sha256").hexdigest()
    return time.perf_counter() - begin


def _seconds_of_floor(folder: str, names: Sequence[str]) -> float:
    contents = [Path(folder, name).read_bytes() for name in names]
    begin = time.perf_counter()
    for data in contents:
        hashlib.sha256(data).hexdigest()
        image = Image.open(io.BytesIO(data))
        image.draft("L", (WIDTH // 8, HEIGHT // 8))
        image.load()
    return time.perf_counter() - begin


def _write_photographs(folder: Path, images: int) -> list[str]:
    """JPEGs with the statistics of photographs: amplitudes fall as 1/f, and the sensor's noise."""
    rng = np.random.default_rng(0)
    scenes = [scene(rng, WIDTH, HEIGHT) for _ in range(SCENES)]
    noise = rng.normal(0, 4, (HEIGHT, WIDTH, 3)).astype(np.float32)
    names = []
    for number in range(images):
        shift = rng.integers(0, (HEIGHT, WIDTH))
        pixels = np.roll(scenes[number % SCENES], shift, (0, 1)) + noise
        name = f"{number:04d}.jpg"
        picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        picture.save(folder / name, quality=90)
        names.append(name)
    return names


def scene(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """A random picture [height, width, 3] around mid-grey whose channels are much alike."""
    y, x = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    frequency = np.maximum(np.hypot(y, x), 1 / width)
    layers = []
    for spread in (50.0, 12.0, 12.0, 12.0):  # lightness, then what each channel adds
        phases = rng.uniform(0, 2 * np.pi, frequency.shape)
        layer = np.fft.irfft2(np.exp(1j * phases) / frequency, (height, width))
        layers.append(layer * (spread / layer.std()))
    return (128 + layers[0][..., None] + np.stack(layers[1:], -1)).astype(np.float32)


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
