"""Small raw datasets for tests: drawn pictures, annotation files, and the programs run on them."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

import convert_dataset
import fetch_dataset
from shardline.files import read_json, read_jsonl
from shardline.rows import Row


def command_line(**values: object) -> list[str]:
    """``--name value`` for each keyword."""
    return [part for name, value in values.items() for part in (f"--{name}", str(value))]


def picture(seed: int, size: tuple[int, int] = (120, 80)) -> Image.Image:
    """A picture of large random blocks: no two seeds look alike."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST)


def video(
    kind: str, codec: str, size: tuple[int, int] = (96, 72), frames: int = 12, rate: int = 6
) -> bytes:
    """A video file whose pictures change."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        for seed in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_image(picture(seed, size))))
        container.mux(stream.encode())
    return buffer.getvalue()


def screen(
    name: str, labels: Sequence[str], size: tuple[int, int] = (120, 80), **fields: Any
) -> dict[str, Any]:
    """A ShowUI record whose elements stand side by side."""
    boxes = [[0.1 * n, 0.2, 0.1 * n + 0.05, 0.4] for n in range(len(labels))]
    elements = [
        {"instruction": label, "bbox": box, "data_type": "icon"}
        for label, box in zip(labels, boxes, strict=True)
    ]
    return {
        "img_url": name,
        "img_size": list(size),
        "element": elements,
        "element_size": len(labels),
        **fields,
    }


def write_showui(folder: Path, records: Sequence[Any], file: str = "train.json") -> None:
    """Write records as a ShowUI annotation file."""
    path = folder / "metadata" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(list(records)))


def save(image: Image.Image, path: Path, **options: Any) -> None:
    """Save an image, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def lock(results: Path, name: str, folder: Path) -> None:
    """Link and lock a folder as dataset ``name``."""
    raw = results / "raw"
    fetch_dataset.main(
        command_line(
            dataset=name,
            options=json.dumps({"source": f"folder:{folder}", "licence": "mit"}),
            raw=raw / name,
            lock=raw / f"{name}.lock.json",
            files=raw / f"{name}.files.tsv",
        )
    )


def convert(
    results: Path, name: str, format_name: str, frame: str, threads: int = 1, **options: Any
) -> dict[str, Any]:
    """Convert a locked dataset and return the manifest."""
    options = {
        "format": format_name,
        "frame": frame,
        "format_options": {},
        "shard_rows": 5000,
        "max_reject_share": 1.0,
        "max_pixels": 50_000_000,
        "plugins": [],
        **options,
    }
    folder = results / "converted" / name
    convert_dataset.main(
        command_line(
            dataset=name,
            options=json.dumps(options),
            raw=results / "raw" / name,
            lock=results / "raw" / f"{name}.lock.json",
            manifest=folder / "manifest.json",
            rejects=folder / "rejects.jsonl",
            threads=threads,
        )
    )
    return read_json(folder / "manifest.json")


def lock_and_convert(
    results: Path, name: str, folder: Path, format_name: str, frame: str, **options: Any
) -> dict[str, Any]:
    """Lock and convert a folder; return the manifest."""
    lock(results, name, folder)
    return convert(results, name, format_name, frame, **options)


def rows_in(format_module: Any, folder: Path, **options: Any) -> Iterator[Row]:
    """The rows that a format in two halves reads."""
    parse = format_module.parser(folder, options)
    for raw_row in format_module.scan(folder, options):
        yield from parse(raw_row)


def samples_of(results: Path, name: str) -> list[dict[str, Any]]:
    """All converted samples of a dataset, in order."""
    folder = results / "converted" / name
    shards = read_json(folder / "manifest.json")["shards"]
    return [sample for shard in shards for sample in read_jsonl(folder / shard["name"])]


def rejects_of(results: Path, name: str) -> list[dict[str, Any]]:
    """All rejects of a conversion."""
    return list(read_jsonl(results / "converted" / name / "rejects.jsonl"))


def tree_bytes(folder: Path) -> dict[str, bytes]:
    """The content of all files below a folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def check_sums(manifest: dict[str, Any], rejects: Sequence[dict[str, Any]]) -> None:
    """See that a conversion's manifest and rejects account for every row and element."""
    for what in ("rows", "elements"):
        counts = manifest[what]
        assert counts["in"] == counts["kept"] + counts["rejected"]
    assert sum(shard["rows"] for shard in manifest["shards"]) == manifest["rows"]["in"]
    assert sum(shard["samples"] for shard in manifest["shards"]) == manifest["rows"]["kept"]
    assert manifest["reasons"] == Counter(reject["reason"] for reject in rejects)
    rows = [reject for reject in rejects if "/" not in reject["row"].rpartition("#")[2]]
    assert len(rows) == manifest["rows"]["rejected"]
