"""Screens with boxes and points drawn on them, as data the page's template can place.

Shapes lie over the image as SVG, in units of its pixels, so that they stay sharp at any size.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageOps

from shardline.embedded import read_medium
from shardline.errors import DataError
from shardline.files import read_jsonl, sha256_bytes
from shardline.reporting.artefacts import Artefacts, Json
from shardline.samples import Sample, to_unit

LONGEST_SIDE = 720  # pixels of an embedded image
LOSSLESS_PIXELS = 100_000  # larger ones are embedded as JPEG, a tenth of the bytes
SAMPLES_A_DATASET = 4
BEST, WORST, BY_LOT = 4, 8, 8
LONGEST_TEXT = 160


@dataclass
class Shape:
    """A box (``xywh``) or a point (``xy``) in image pixels; ``kind`` picks its look."""

    kind: str
    values: list[float]
    label: str = ""


@dataclass
class Scene:
    """A screen to show: ``image`` is a data address, or empty with the reason in ``problem``."""

    image: str = ""
    width: int = 1
    height: int = 1
    problem: str = ""
    shapes: list[Shape] = field(default_factory=list)
    title: str = ""
    facts: list[tuple[str, str]] = field(default_factory=list)
    hit: bool | None = None


def embed_image(path: Path) -> tuple[str, int, int]:
    """An image file as a data address, and its width and height after EXIF orientation.

    Raises:
        OSError: the file is missing or no image.
        DataError: it lies in a parquet file that is broken.
    """
    with Image.open(io.BytesIO(read_medium(path))) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGB")
    width, height = image.size
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    buffer = io.BytesIO()
    if image.width * image.height <= LOSSLESS_PIXELS:
        image.save(buffer, "PNG", optimize=True)
        kind = "png"
    else:
        image.save(buffer, "JPEG", quality=82)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}", width, height


def scene_of(sample: Sample, artefacts: Artefacts) -> Scene:
    """The first image of a sample without shapes; a problem where it cannot be read."""
    if not sample.media:
        return Scene(problem="this sample has no image")
    medium = sample.media[0]
    try:
        image, width, height = embed_image(artefacts.path(f"raw/{sample.dataset}/{medium.path}"))
    except (DataError, OSError, ValueError, Image.DecompressionBombError):
        return Scene(problem=f"the image {medium.path} cannot be read any more")
    return Scene(image=image, width=width, height=height)


def draw_box(scene: Scene, kind: str, xyxy: list[float], label: str = "") -> None:
    """Add a box given as fractions of the image."""
    left, top, right, bottom = xyxy
    values = [left * scene.width, top * scene.height]
    values += [(right - left) * scene.width, (bottom - top) * scene.height]
    scene.shapes.append(Shape(kind, [round(value, 2) for value in values], label))


def draw_point(scene: Scene, kind: str, xy: list[float] | None, label: str = "") -> None:
    """Add a point given as fractions of the image; None adds nothing."""
    if xy is not None:
        values = [round(xy[0] * scene.width, 2), round(xy[1] * scene.height, 2)]
        scene.shapes.append(Shape(kind, values, label))


def training_samples(name: str, variant: str | None, artefacts: Artefacts) -> list[Scene]:
    """A few samples of a training dataset that its filters kept, drawn by a hash of their ids."""
    manifest = artefacts.json(f"converted/{name}/manifest.json") or {"shards": []}
    shard = next((s["name"] for s in manifest["shards"] if s.get("samples")), None)
    if shard is None or not artefacts.path(f"converted/{name}/{shard}").is_file():
        return []
    kept = _kept_ids(name, variant, shard, artefacts)
    samples = [
        Sample.from_json(row)
        for row in read_jsonl(artefacts.path(f"converted/{name}/{shard}"))
        if kept is None or row["id"] in kept
    ]
    samples.sort(key=lambda sample: _lot(sample.id))
    scenes = []
    for sample in samples[:SAMPLES_A_DATASET]:
        scene = scene_of(sample, artefacts)
        scene.title = sample.id.removeprefix(f"{name}:")
        labels = ", ".join(box.label for box in sample.boxes)
        scene.facts = [("boxes", _short(f"{len(sample.boxes)}: {labels}"))]
        scene.facts.append(("screen", f"{scene.width} × {scene.height} px"))
        for box in sample.boxes:
            unit = to_unit(box.xyxy, sample.frame, scene.width, scene.height)
            draw_box(scene, "target", unit, box.label)
        scenes.append(scene)
    return scenes


def _kept_ids(name: str, variant: str | None, shard: str, artefacts: Artefacts) -> set[str] | None:
    """Ids that the filters kept of a converted shard; None where there were no filters."""
    folder = artefacts.path(f"filtered/{name}/{variant}")
    number = shard.removeprefix("samples-").split(".")[0]
    files = sorted(folder.glob(f"decisions-{number}-*.jsonl")) if variant else []
    if not files:
        return None
    return {row["id"] for file in files for row in read_jsonl(file) if row["kept"]}


def _lot(text: str) -> str:
    return sha256_bytes(text.encode())


@dataclass
class PredictionGroup:
    """Some predictions of one model on one benchmark."""

    name: str
    how: str
    scenes: list[Scene]


def predictions(
    options: Json, model: str, benchmark: str, artefacts: Artefacts
) -> list[PredictionGroup]:
    """The best, the worst and some predictions by lot, at most one a screen in each group."""
    folder = f"evals/{options['recipe']}"
    items = artefacts.rows(f"{folder}/{model}/{benchmark}/items.jsonl")
    if not items:
        return []
    base = options["models"][0]
    before = {}
    if base != model:
        rows = artefacts.rows(f"{folder}/{base}/{benchmark}/items.jsonl")
        before = {row["item"]: row for row in rows}
    hits = sorted((row for row in items if row["hit"]), key=lambda row: (_miss(row), row["item"]))
    misses = sorted(
        (row for row in items if not row["hit"]), key=lambda row: (-_miss(row), row["item"])
    )
    chosen = [
        ("Best", "hits nearest to the middle of their target", _one_a_screen(hits, BEST)),
        (
            "Worst",
            "answers of a wrong form first, then the farthest misses",
            _one_a_screen(misses, WORST),
        ),
        (
            "By lot",
            "chosen by a hash of their ids, whatever they are",
            _one_a_screen(sorted(items, key=lambda row: _lot(row["item"])), BY_LOT),
        ),
    ]
    wanted = {_sample_id(row) for _, _, rows in chosen for row in rows}
    samples = _find_samples(benchmark, wanted, artefacts)
    return [
        PredictionGroup(
            name,
            how,
            [_prediction(row, before.get(row["item"]), samples, artefacts) for row in rows],
        )
        for name, how, rows in chosen
        if rows
    ]


def _sample_id(row: Json) -> str:
    return row["item"].rpartition("#")[0]


def _miss(row: Json) -> float:
    """Distance of a prediction to the middle of its target, in fractions; far for no point."""
    if row["point"] is None:
        return float("inf")
    left, top, right, bottom = row["box"]
    x, y = row["point"]
    return ((x - (left + right) / 2) ** 2 + (y - (top + bottom) / 2) ** 2) ** 0.5


def _one_a_screen(rows: Iterable[Json], most: int) -> list[Json]:
    chosen: dict[str, Json] = {}
    for row in rows:
        if len(chosen) == most:
            break
        chosen.setdefault(_sample_id(row), row)
    return list(chosen.values())


def _find_samples(benchmark: str, wanted: set[str], artefacts: Artefacts) -> dict[str, Sample]:
    manifest = artefacts.json(f"converted/{benchmark}/manifest.json") or {"shards": []}
    found: dict[str, Sample] = {}
    for shard in manifest["shards"]:
        path = artefacts.path(f"converted/{benchmark}/{shard['name']}")
        if len(found) == len(wanted) or not path.is_file():
            continue
        for row in read_jsonl(path):
            if row["id"] in wanted:
                found[row["id"]] = Sample.from_json(row)
    return found


def _prediction(
    row: Json, before: Json | None, samples: dict[str, Sample], artefacts: Artefacts
) -> Scene:
    sample = samples.get(_sample_id(row))
    if sample is None:
        scene = Scene(problem="the screen is not in the converted benchmark any more")
    else:
        scene = scene_of(sample, artefacts)
    scene.hit = bool(row["hit"])
    scene.title = _instruction(row, sample)
    scene.facts = [("answer", _short(row["answer"]) or "(empty)")]
    if before is not None:
        scene.facts.append(("base", _short(before["answer"]) or "(empty)"))
        draw_point(scene, "before", before["point"], "the base's point")
    if row.get("cell"):
        scene.facts.append(("cell", row["cell"]))
    draw_box(scene, "target", row["box"], "target")
    draw_point(scene, "hit" if row["hit"] else "miss", row["point"], "the model's point")
    return scene


def _instruction(row: Json, sample: Sample | None) -> str:
    """What was asked for: the target's label, else the whole question."""
    number = row["item"].rpartition("#")[2]
    if sample and number.isdecimal() and int(number) < len(sample.boxes):
        return _short(sample.boxes[int(number)].label) or _short(row["question"])
    return _short(row["question"])


def _short(text: str) -> str:
    text = " ".join(str(text).split())
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"
