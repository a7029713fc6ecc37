"""Pictures of what a chain of filters did: histograms of scores, contact sheets, copies."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from shardline.files import atomic_file, file_entry, read_json, write_json
from shardline.reporting.charts import histogram, standalone
from shardline.reporting.contact_sheets import Tile, draw_sheet, save_sheet
from shardline.reporting.numbers import plural
from shardline.samples import Medium, Sample
from shardline.stored_decisions import judged_by, read_decided, scores_of, threshold_of
from shardline.versions import package_versions

Json = dict[str, Any]
LEAST_BARS, MOST_BARS = 8, 40
TILES = 18  # pictures a sheet
PAIRS = 9  # pairs a sheet


@dataclass
class Lot:
    """At most ``most`` of many things: those of the smallest keys, each key once."""

    most: int
    found: dict[str, Any] = field(default_factory=dict)

    def add(self, key: str, thing: Any) -> None:
        """Take part in the draw."""
        self.found.setdefault(key, thing)
        if len(self.found) > 16 * self.most:
            self.found = dict(heapq.nsmallest(self.most, self.found.items()))

    def drawn(self) -> list[Any]:
        """What was drawn, by key."""
        return [thing for _, thing in heapq.nsmallest(self.most, self.found.items())]


class Seen:
    """What one filter of the chain saw: images it judged by score, rejected ones, copies."""

    def __init__(self, entry: Json, scores: dict[str, dict[str, float]]) -> None:
        self.entry = entry
        self.name = entry["name"]
        number = str(entry["options"].get("score"))
        self.scores = {name: values.get(number, values["score"]) for name, values in scores.items()}
        self.threshold = threshold_of(entry)
        self.judged: dict[str, str] = {}
        self.rejected = Lot(TILES)
        self.pairs = Lot(PAIRS)

    def reject(self, images: list[Medium], line: Json, dataset: str) -> None:
        """Note a sample that the filter rejected: a pair of copies, or its images."""
        if pair := _pair(line["detail"], dataset):
            self.pairs.add(images[0].sha256 if images else line["id"], pair)
            return
        for medium in images:
            lines = (self._said(medium, line["reason"]), medium.path)
            self.rejected.add(medium.sha256, Tile(f"{dataset}/{medium.path}", lines))

    def _said(self, medium: Medium, reason: str) -> str:
        score = self.scores.get(medium.sha256)
        return reason if score is None else f"{score:.4g} {reason}"

    def borderline(self, dataset: str) -> list[Tile]:
        """The images nearest to the threshold on both sides, from the lowest score."""
        ranked = [(self.scores[sha256], path) for sha256, path in self.judged.items()]
        below = heapq.nlargest(TILES // 2, (item for item in ranked if item[0] < self.threshold))
        above = heapq.nsmallest(TILES // 2, (item for item in ranked if item[0] >= self.threshold))
        return [
            Tile(
                f"{dataset}/{path}",
                (f"{score:.4g} {'rejected' if score < self.threshold else 'accepted'}", path),
            )
            for score, path in [*below[::-1], *above]
        ]


def draw_filter_pictures(*, decisions: Path, results: Path, index: Path) -> Json:
    """Draw the pictures of a filtered dataset into the folder beside ``index``, and list them.

    Args:
        decisions: the chain's summary.
        results: folder of all results.
        index: JSON to write; the pictures go to the folder of its name without the ending.

    Returns:
        The index: ``pictures`` has for each its ``file``, ``kind`` (``histogram`` or ``sheet``),
        ``title`` and ``caption``, size and hash; a histogram also its ``edges``, ``counts`` and
        ``threshold``, a sheet its ``width`` and ``height``.

    Raises:
        DataError: an input is not what the summary says.
    """
    summary = read_json(decisions)
    folder = index.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    index.unlink(missing_ok=True)
    pictures = list(_draw(summary, decisions, results, folder))
    wanted = {picture["file"] for picture in pictures}
    for path in folder.iterdir():
        if path.name not in wanted:
            path.unlink()
    content = {
        "stage": "filter_pictures",
        "dataset": summary["dataset"],
        "variant": summary["variant"],
        "pictures": pictures,
        "versions": package_versions("numpy", "pillow"),
    }
    write_json(index, content)
    return content


def _draw(summary: Json, decisions: Path, results: Path, folder: Path) -> Iterator[Json]:
    dataset, filters = summary["dataset"], summary["filters"]
    if not filters:
        return
    seen = [Seen(entry, scores_of(entry, dataset, results)) for entry in filters]
    kept = Lot(TILES)
    for sample, line in read_decided(decisions, results / "converted" / dataset):
        _note(sample, line, filters, seen, kept)
    raw = results / "raw"
    for position, one in enumerate(seen):
        prefix = f"{position}-{one.name}"
        if one.judged:
            yield _histogram(one, folder / f"{prefix}-scores.svg")
        if one.judged and one.threshold is not None and (tiles := one.borderline(dataset)):
            title = f"{one.name}: images nearest to the threshold"
            caption = f"From the lowest score; the threshold is {one.threshold:.4g}."
            yield _sheet(raw, tiles, folder / f"{prefix}-borderline.jpg", title, caption)
        if tiles := one.rejected.drawn():
            caption = _drawn(len(tiles), TILES, "image", one.entry["rejected"], "rejected")
            path = folder / f"{prefix}-rejected.jpg"
            yield _sheet(raw, tiles, path, f"{one.name}: rejected", caption)
        if pairs := one.pairs.drawn():
            tiles = [tile for pair in pairs for tile in pair]
            caption = _drawn(len(pairs), PAIRS, "pair", one.entry["rejected"], "rejected")
            path = folder / f"{prefix}-matches.jpg"
            title = f"{one.name}: copies side by side"
            yield _sheet(raw, tiles, path, title, caption, group=2)
    if tiles := kept.drawn():
        caption = _drawn(len(tiles), TILES, "image", summary["samples"]["kept"], "kept")
        yield _sheet(raw, tiles, folder / "kept.jpg", "Kept by all filters", caption)


def _note(sample: Sample, line: Json, filters: list[Json], seen: list[Seen], kept: Lot) -> None:
    images = [medium for medium in sample.media if medium.kind == "image"]
    for position, one in enumerate(seen):
        if one.scores and judged_by(position, line, filters):
            one.judged |= {m.sha256: m.path for m in images if m.sha256 in one.scores}
    if not line["kept"]:
        names = [entry["name"] for entry in filters]
        seen[names.index(line["filter"])].reject(images, line, sample.dataset)
        return
    scored = next((one for one in seen if one.scores), None)
    for medium in images:
        score = scored.scores.get(medium.sha256) if scored else None
        lines = (medium.path,) if score is None else (f"{score:.4g}", medium.path)
        kept.add(medium.sha256, Tile(f"{sample.dataset}/{medium.path}", lines))


def _drawn(shown: int, most: int, what: str, samples: int, how: str) -> str:
    lot = ", drawn by lot," if shown == most else ""
    return f"{plural(shown, what)}{lot} of {plural(samples, f'{how} sample')}."


def _pair(detail: Json, dataset: str) -> tuple[Tile, Tile] | None:
    """A rejected sample's picture and the one it repeats, from what dedup or overlap wrote down."""
    if "benchmark_path" in detail:
        mine, other, where = detail["path"], detail["benchmark_path"], detail["benchmark"]
        bits = 0 if detail["exact"] else detail["distance"]
    elif detail.get("paths") and "of" in detail:
        (mine, other), where = detail["paths"][0], detail["of"].partition(":")[0]
        bits = detail["distances"][0]
    else:
        return None
    near = f"{bits} of 64 bits differ" if bits else "no bit of the hash differs"
    return (
        Tile(f"{dataset}/{mine}", (near, mine)),
        Tile(f"{where}/{other}", (f"in {where}", other)),
    )


def _sheet(
    raw: Path, tiles: list[Tile], path: Path, title: str, caption: str, group: int = 1
) -> Json:
    sheet = draw_sheet(raw, tiles, group)
    with atomic_file(path) as file:
        save_sheet(sheet, file)
    size = {"width": sheet.width, "height": sheet.height}
    return _entry(path, "sheet", title, caption) | size


def _histogram(one: Seen, path: Path) -> Json:
    values = [one.scores[sha256] for sha256 in one.judged]
    counts, edges = bins(values, one.threshold)
    shown = {"edges": edges, "counts": counts, "threshold": one.threshold}
    with atomic_file(path, "w") as file:
        file.write(standalone(histogram(**shown, x_label="score", y_label="images")))
    caption = plural(len(values), "image")
    if one.threshold is not None:
        low = sum(value < one.threshold for value in values)
        caption += f", {low:,} of them below the threshold {one.threshold:.4g}"
    caption += "."
    return _entry(path, "histogram", f"{one.name}: scores", caption) | shown


def bins(values: Iterable[float], threshold: float | None) -> tuple[list[int], list[float]]:
    """Counts and edges of a histogram in which no bar stands on both sides of the threshold."""
    found = np.array(list(values), np.float64)
    anchor = float(found.min()) if threshold is None else threshold
    low, high = min(float(found.min()), anchor), max(float(found.max()), anchor)
    bars = min(MOST_BARS, max(LEAST_BARS, round(2 * len(found) ** 0.5)))
    width = (high - low) / bars or 1e-3
    first = -int(np.ceil((anchor - low) / width))
    last = int(np.floor((high - anchor) / width)) + 1
    edges = np.array([anchor + step * width for step in range(first, last + 1)])
    edges[0], edges[-1] = min(edges[0], low), max(edges[-1], high)
    counts, _ = np.histogram(found, edges)
    return counts.tolist(), edges.tolist()


def _entry(path: Path, kind: str, title: str, caption: str) -> Json:
    entry = file_entry(path)
    return {"file": entry.pop("name"), "kind": kind, "title": title, "caption": caption, **entry}
