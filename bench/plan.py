"""A plan of a million samples, in packs of 8 and of 16 thousand tokens.

The lengths are drawn from real ones: sizes of pictures and numbers of characters of screens
(ScreenSpot-v2), photographs with captions and boxes (COCO), web pages with their source (WebSRC),
agents' sessions (ScreenAgent) and talk about videos (VDC), mixed by the shares in `KINDS`. Indexes
are written as tokenising writes them; the program is then run as a rule runs it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import figures
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shardline.families import qwen2_vl as family
from shardline.files import canonical_json, read_json, sha256_file, write_json
from shardline.token_index import METADATA, MODEL_FACTS, SCHEMA

SAMPLES = 1_000_000
SHARD = 10_000
TEMPLATE = 30  # tokens of a conversation's turns and media marks
CHARACTERS_A_TOKEN = 3.5
BLOCK, MEMBER = 4096, 3000  # bytes from member to member of a tar, and of one
MEMBERS = ("json", "0.png", "input_ids.npy", "labels.npy")
SCRIPT = Path(__file__).resolve().parents[1] / "scripts/plan_stage.py"
PACKS_A_STEP = {8192: 32, 16384: 8}


class Kind(NamedTuple):
    """Samples of one kind: their share, pictures with how often each, and deciles of characters."""

    share: float
    pictures: dict[tuple[int, int], int]
    characters: tuple[int, ...]


KINDS = (
    Kind(
        0.35,
        {(2560, 1440): 391, (960, 540): 109, (1920, 1080): 70, (1170, 2532): 60, (2880, 1800): 8},
        (304, 313, 316, 317, 319, 321, 324, 327, 331, 338, 387),
    ),
    Kind(
        0.3,
        {(640, 480): 45, (480, 640): 20, (640, 427): 20, (640, 360): 5, (500, 375): 10},
        (399, 418, 452, 523, 584, 645, 696, 750, 842, 959, 2320),
    ),
    Kind(
        0.1,
        {(1280, 720): 1, (1920, 1080): 1},
        (1366, 3993, 3995, 3995, 4237, 4238, 13593, 13671, 14105, 23163, 23171),
    ),
    Kind(
        0.1,
        {(1024, 768): 1},
        (2948, 3164, 3474, 3834, 4062, 4521, 4698, 6730, 7874, 8532, 9120),
    ),
    Kind(0.15, {}, (708, 1000, 1106, 1159, 1223, 1271, 1395, 1460, 1544, 1676, 2685)),
)


def measure(samples: int = SAMPLES) -> dict[str, float]:
    """Seconds and memory (MB) of the slower plan, fill of both, imbalance of the worse."""
    found: dict[str, float] = {"plan_1m.samples": samples}
    seconds, peaks, imbalances = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        manifest = _write_dataset(Path(folder, "tokens/mix/bench"), samples)
        for max_length, packs in PACKS_A_STEP.items():
            begin = time.perf_counter()
            plan, peak = _plan(manifest, Path(folder), max_length, packs)
            seconds.append(time.perf_counter() - begin)
            peaks.append(peak)
            imbalances.append(plan["predicted_imbalance"]["8"])
            found[f"plan_1m.fill_{max_length // 1024}k"] = plan["fill"]
            if plan["samples"] != samples:
                raise SystemExit(f"{plan['samples']} of {samples} samples were planned")
    found["plan_1m.seconds"] = round(max(seconds), 1)
    found["plan_1m.peak_mb"] = round(max(peaks) / 1e6)
    found["plan.imbalance_p50"] = max(one["p50"] for one in imbalances)
    found["plan.imbalance_p99"] = max(one["p99"] for one in imbalances)
    return found


def _plan(manifest: Path, folder: Path, max_length: int, packs: int) -> tuple[dict[str, Any], int]:
    """The summary of one epoch's plan, and the most bytes that the program had."""
    options = {
        **{"recipe": "bench", "stage": "plan", "method": "sft", "family": "qwen2_vl", "seed": 0},
        **{"mixture": [{"dataset": "mix", "percent": 100}], "steps": None, "epochs": 1.0},
        **{"max_length": max_length, "global_batch": {"tokens": packs * max_length}},
    }
    summary = folder / "plan.json"
    command = [
        *(sys.executable, str(SCRIPT), "--options", json.dumps(options)),
        *("--tokens", str(manifest), "--plan", str(summary)),
        *("--parquet", str(folder / "plan.parquet"), "--rejects", str(folder / "rejects.jsonl")),
    ]
    code, peak = figures.run(command)
    if code:
        raise SystemExit(f"plan_stage failed: {code}")
    return read_json(summary), peak


def draw_lengths(samples: int, seed: int = 0) -> dict[str, np.ndarray]:
    """``text_length`` with one placeholder, ``height`` and ``width`` in patches, or 0."""
    rng = np.random.default_rng(seed)
    kinds = rng.choice(len(KINDS), samples, p=[kind.share for kind in KINDS])
    text, grid = np.zeros(samples), np.zeros((samples, 2), dtype=np.int64)
    for number, kind in enumerate(KINDS):
        mine = np.flatnonzero(kinds == number)
        deciles = np.linspace(0, 1, len(kind.characters))
        text[mine] = np.interp(rng.random(len(mine)), deciles, kind.characters)
        if kind.pictures:
            grids = np.array([family.image_grid(*size, 4, 1344)[1:] for size in kind.pictures])
            often = np.array(list(kind.pictures.values())) / sum(kind.pictures.values())
            grid[mine] = grids[rng.choice(len(grids), len(mine), p=often)]
    tokens = TEMPLATE + np.round(text / CHARACTERS_A_TOKEN).astype(np.int64)
    return {"text_length": tokens, "height": grid[:, 0], "width": grid[:, 1]}


def _write_dataset(folder: Path, samples: int) -> Path:
    """Indexes and manifest of a tokenised dataset, without its tars."""
    folder.mkdir(parents=True)
    drawn = draw_lengths(samples)
    shards = []
    for number, start in enumerate(range(0, samples, SHARD)):
        part = {name: values[start : start + SHARD] for name, values in drawn.items()}
        index = folder / f"shard-{number:05}.index.parquet"
        size = _write_index(index, start, part)
        shards.append(
            {
                **{"name": f"shard-{number:05}.tar", "bytes": size, "sha256": f"{number:064}"},
                **{"index": index.name, "index_sha256": sha256_file(index)},
            }
        )
    manifest = folder / "manifest.json"
    counts = {"in": samples, "kept": samples, "rejected": 0}
    write_json(
        manifest,
        {
            **{"stage": "tokens", "dataset": "mix", "samples": counts, "shards": shards},
            **{**dict.fromkeys(MODEL_FACTS, ""), "family": "qwen2_vl"},
        },
    )
    return manifest


def _write_index(path: Path, start: int, drawn: dict[str, np.ndarray]) -> int:
    """One shard's index; returns the bytes of a tar that would hold its samples."""
    text, height, width = (drawn[name] for name in ("text_length", "height", "width"))
    count, seen = len(text), height > 0
    patches = height * width
    length = text + np.where(seen, patches // family.MERGE**2 - 1, 0)
    learned = text // 3
    keys = [f"{number:016x}" for number in range(start, start + count)]
    names = [
        f"{key}.{name}"
        for key, picture in zip(keys, seen.tolist(), strict=True)
        for name in MEMBERS
        if picture or name != "0.png"
    ]
    offsets = np.arange(len(names)) * BLOCK + 512
    sides = np.stack([np.ones(count), height, width], axis=1)[seen].ravel()
    members = pa.StructArray.from_arrays(
        [pa.array(names), pa.array(offsets), pa.array(np.full(len(names), MEMBER))],
        ["name", "offset", "size"],
    )
    columns = {
        "key": keys,
        "id": [f"mix:annotations/train.json#{number}" for number in range(start, start + count)],
        "dataset": ["mix"] * count,
        "group": keys,
        "pack": [""] * count,
        "length": length,
        "text_length": text,
        "placeholders": seen.astype(np.int64),
        "patches": patches,
        "supervised": learned,
        "media_end": np.where(seen, patches // family.MERGE**2 + 8, 0),
        "answers": _lists(np.stack([length - learned - 1, length - 1], axis=1).ravel(), 2),
        "grids": _lists(_lists(sides.astype(np.int64), 3), seen),
        "members": _lists(members, np.where(seen, len(MEMBERS), len(MEMBERS) - 1)),
    }
    arrays = [_column(columns.get(field.name), field.type, count) for field in SCHEMA]
    schema = SCHEMA.with_metadata({METADATA: canonical_json({}).encode()})
    pq.write_table(pa.table(arrays, schema=schema), path, compression="zstd")
    return int(offsets[-1]) + MEMBER


def _column(values: Any, kind: pa.DataType, count: int) -> pa.Array:
    """Values as a column; nulls for one that planning does not read."""
    if values is None:
        return pa.nulls(count, kind)
    return values.cast(kind) if isinstance(values, pa.Array) else pa.array(values, type=kind)


def _lists(values: Any, counts: np.ndarray | int) -> pa.ListArray:
    """Values as lists of so many each."""
    if isinstance(counts, int):
        counts = np.full(len(values) // counts, counts)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(starts), pa.array(values))


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=SAMPLES)
    print(json.dumps(measure(parser.parse_args(argv).samples), indent=2))


if __name__ == "__main__":
    main()
