"""Conversion of a LLaVA jsonl of a million rows on two cores, and the memory that it takes.

The rows have about 1 KB, 2 to 6 turns of words whose frequencies fall as Zipf's law, and one of
some thousand small images, so that reading, checking and writing the rows dominate. The floor is
what no conversion can leave out, measured on one core and divided by the workers: to read and hash
the file, to parse each line, to write it again with sorted keys, to compress and hash that.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import orjson
import psutil
import zstandard
from PIL import Image

from shardline.files import ZSTD_LEVEL, read_json
from shardline.locks import write_lock

ROWS = 1_000_000
IMAGES = 3_000
FLOOR_ROWS = 50_000
WORDS = 20_000
SAMPLE_S = 1.0  # seconds between two looks at the memory
SCRIPT = Path(__file__).resolve().parents[1] / "scripts/convert_dataset.py"
OPTIONS = {
    "format": "llava",
    "frame": None,
    "format_options": {},
    "shard_rows": 5000,
    "max_reject_share": 0,
    "max_pixels": 100_000_000,
    "plugins": [],
}


def measure(rows: int = ROWS, threads: int = 2) -> dict[str, float]:
    """Seconds, peak memory (MB, what the processes share counted once) and the floor in seconds."""
    with tempfile.TemporaryDirectory() as folder:
        raw, lock, converted = (Path(folder, name) for name in ("raw", "raw.lock.json", "out"))
        size = _write_dataset(raw, rows)
        write_lock(
            raw, lock, Path(folder, "raw.files.tsv"),
            name="bench", kind="dataset", source="", revision="",
        )  # fmt: skip
        floor = _seconds_of_floor(raw / "rows.jsonl") / threads
        command = [
            *(sys.executable, str(SCRIPT), "--dataset", "bench", "--threads", str(threads)),
            *("--options", json.dumps(OPTIONS), "--raw", str(raw), "--lock", str(lock)),
            *("--manifest", str(converted / "manifest.json")),
            *("--rejects", str(converted / "rejects.jsonl")),
        ]
        begin, used = time.perf_counter(), _cpu_seconds()
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            peak = _peak_memory(process)
        seconds, used = time.perf_counter() - begin, _cpu_seconds() - used
        kept = read_json(converted / "manifest.json")["rows"]["kept"]
    if kept != rows:
        raise SystemExit(f"{kept} of {rows} rows were kept")
    scale = rows / min(rows, FLOOR_ROWS)
    return {
        "convert_1m.rows": rows,
        "convert_1m.gigabytes": round(size / 1e9, 3),
        "convert_1m.seconds": round(seconds, 1),
        "convert_1m.cpu_seconds": round(used, 1),
        "convert_1m.peak_mb": round(peak / 1e6),
        "convert_1m.floor_seconds": round(floor * scale, 1),
        "convert_1m.share_of_floor": round(floor * scale / seconds, 2),
    }


def _cpu_seconds() -> float:
    """What ended processes below this one have used: what else the machine does hardly matters."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _peak_memory(process: subprocess.Popen[bytes]) -> int:
    """The most bytes that a process and those below it had at once, till it ends."""
    peak = 0
    tree = psutil.Process(process.pid)
    while process.poll() is None:
        total = 0
        try:
            for member in (tree, *tree.children(recursive=True)):
                total += member.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
        peak = max(peak, total)
        time.sleep(SAMPLE_S)
    return peak


def _seconds_of_floor(path: Path) -> float:
    begin = time.perf_counter()
    lines = []
    with open(path, "rb") as file:
        for line in file:
            lines.append(line)
            if len(lines) == FLOOR_ROWS:
                break
    for digest in (hashlib.sha256(), hashlib.sha256()):
        for line in lines:
            digest.update(line)
    compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compressobj()
    for line in lines:
        compressor.compress(orjson.dumps(orjson.loads(line), option=orjson.OPT_SORT_KEYS))
    compressor.flush()
    return time.perf_counter() - begin


def _write_dataset(raw: Path, rows: int) -> int:
    """Write images and rows; returns the bytes of the latter."""
    rng = np.random.default_rng(0)
    for number in range(IMAGES):
        path = raw / f"coco/train/{number:012d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 48), Image.Resampling.NEAREST).save(path)
    words = _words(rng)
    with open(raw / "rows.jsonl", "w", encoding="utf-8") as file:
        for number in range(rows):
            file.write(json.dumps(_row(rng, words, number)) + "\n")
    return (raw / "rows.jsonl").stat().st_size


def _words(rng: np.random.Generator) -> np.ndarray:
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    lengths = rng.integers(1, 10, WORDS)
    return np.array(["".join(rng.choice(letters, length)) for length in lengths])


def _row(rng: np.random.Generator, words: np.ndarray, number: int) -> dict[str, object]:
    turns = 2 * int(rng.integers(1, 4))
    chosen = words[rng.zipf(1.2, 150) % WORDS]
    texts = [" ".join(part) for part in np.array_split(chosen, turns)]
    texts[0] = f"<image>\n{texts[0]}?"
    return {
        "id": f"{number:09d}",
        "image": f"coco/train/{rng.integers(IMAGES):012d}.png",
        "conversations": [
            {"from": ("human", "gpt")[turn % 2], "value": text} for turn, text in enumerate(texts)
        ],
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args(argv)
    print(json.dumps(measure(arguments.rows, arguments.threads), indent=2))


if __name__ == "__main__":
    main()
