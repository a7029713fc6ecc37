"""Conversion: a format's rows become canonical samples with audited media, or rejects.

Rows are taken in blocks of ``shard_rows`` of one annotation file (or of many small ones, see
`rows.Row`); a block's samples are one shard, so that a changed row changes its own shard only.
Everything that is not used is in the rejects with its reason, and the counts must add up.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from itertools import groupby, islice
from pathlib import Path
from typing import IO, Any

from shardline import locks, registry
from shardline.boxes import FRAMES, check_agreement, check_box, check_point, parse_frame
from shardline.errors import ConfigError, DataError, GateError
from shardline.files import (
    atomic_file,
    canonical_json,
    file_entry,
    read_json,
    sha256_file,
    write_json,
    write_jsonl,
)
from shardline.images import TURNED, upright
from shardline.media import Auditor
from shardline.parallel import Workers
from shardline.rows import Element, Rejection, Row
from shardline.samples import Box, Point, Sample, frame_scale
from shardline.versions import package_versions

EXAMPLES = 5  # reasons that a failed audit names, each with a row


def convert(
    *,
    dataset: str,
    options: dict[str, Any],
    raw: Path,
    lock: Path,
    manifest: Path,
    rejects: Path,
    threads: int,
) -> dict[str, Any]:
    """Convert a locked dataset; write shards beside ``manifest``, the rejects, then the manifest.

    Args:
        dataset: its name; sample ids are ``<dataset>:<annotation file>#<index>``.
        options: ``format``, ``frame``, ``shard_rows``, ``max_reject_share``, ``max_pixels``,
            ``format_options`` and ``plugins``.
        raw: the data.
        lock: its lock.
        manifest: where the manifest goes.
        rejects: where the rejects go.
        threads: processes that audit media.

    Returns:
        The manifest.

    Raises:
        ConfigError: a frame that is unknown or not the format's.
        DataError: no annotations, or data that changed since it was locked.
        GateError: more than ``max_reject_share`` of rows or elements were rejected.
    """
    format_module = registry.load("formats", options["format"], options.get("plugins", []))
    frame = _frame(dataset, options, format_module)
    manifest.unlink(missing_ok=True)
    folder = manifest.parent
    locked = locks.read_files(lock)
    counts = Counts()
    shards = []
    last_file = ""
    with (
        Workers(threads) as workers,
        atomic_file(rejects, "w") as rejects_file,
    ):
        auditor = Auditor(raw, locked, options["max_pixels"], workers)
        checker = Checker(dataset, frame, auditor, counts, rejects_file)
        rows = format_module.read(raw, options.get("format_options", {}))
        for number, block in enumerate(_blocks(rows, options["shard_rows"])):
            for file in dict.fromkeys(row.file for row in block):
                if file != last_file:
                    locks.check(raw, file, sha256_file(raw / file), locked)
                    last_file = file
            media = [medium for row in block for medium in row.media]
            auditor.audit(
                (medium.path for medium in media if medium.kind == "image"),
                (medium.path for medium in media if medium.kind == "video"),
            )
            samples = [sample for row in block if (sample := checker.check(row))]
            path = folder / f"samples-{number:05d}.jsonl.zst"
            write_jsonl(path, (sample.to_json() for sample in samples))
            shards.append({**file_entry(path), "samples": len(samples), "rows": len(block)})
            print(f"{dataset}: {counts.rows_in} rows, {counts.rows_kept} kept", file=sys.stderr)
    for path in folder.glob("samples-*.jsonl.zst"):
        if path.name not in {shard["name"] for shard in shards}:
            path.unlink()
    counts.check(dataset)
    counts.gate(dataset, options["max_reject_share"])
    content = {
        "stage": "convert",
        "dataset": dataset,
        "files_sha256": read_json(lock)["sha256"],
        "format": options["format"],
        "frame": options["frame"],
        **counts.to_json(),
        "shards": shards,
        "versions": package_versions("av", "pillow", "pillow-heif", "zstandard"),
    }
    write_json(manifest, content)
    return content


class Counts:
    """What went in, what was kept and why the rest was not."""

    def __init__(self) -> None:
        self.rows_in = self.rows_kept = self.rows_rejected = 0
        self.elements_in = self.elements_kept = self.elements_rejected = 0
        self.clipped = 0
        self.points_replaced = 0
        self.reasons: Counter[str] = Counter()
        self.cells: Counter[str] = Counter()
        self.cells_kept: Counter[str] = Counter()
        self.examples: dict[str, str] = {}  # the first reject of each reason

    def to_json(self) -> dict[str, Any]:
        """The counts as the manifest has them."""
        return {
            "rows": {"in": self.rows_in, "kept": self.rows_kept, "rejected": self.rows_rejected},
            "elements": {
                "in": self.elements_in,
                "kept": self.elements_kept,
                "rejected": self.elements_rejected,
            },
            "reasons": dict(self.reasons),
            "clipped": self.clipped,
            "points_replaced": self.points_replaced,
            "cells": dict(self.cells),
            "groups": dict(self.cells_kept),
        }

    def check(self, dataset: str) -> None:
        """See that there was something, and that nothing was lost on the way.

        Raises:
            DataError: no rows, or in is not kept + rejected.
        """
        content = self.to_json()
        if not self.rows_in:
            raise DataError(f"{dataset}: the annotation files have no rows")
        for what in ("rows", "elements"):
            if content[what]["in"] != content[what]["kept"] + content[what]["rejected"]:
                raise DataError(f"{dataset}: {what} do not add up: {content[what]}")

    def gate(self, dataset: str, max_share: float) -> None:
        """See that no more was rejected than the dataset's entry allows.

        Raises:
            GateError: it was; the message has the commonest reasons and some examples.
        """
        content = self.to_json()
        for what in ("rows", "elements"):
            rejected, total = content[what]["rejected"], content[what]["in"]
            if rejected > max_share * total:
                common = self.reasons.most_common(EXAMPLES)
                reasons = ", ".join(f"{reason} {count}" for reason, count in common)
                examples = "".join(f"\n  {self.examples[reason]}" for reason, _ in common)
                raise GateError(
                    f"{dataset}: {rejected} of {total} {what} rejected, over max_reject_share "
                    f"{max_share} ({reasons}):{examples}\nMend the data or the dataset's entry "
                    f"(format, frame), or raise its max_reject_share."
                )


class Checker:
    """Turns rows into samples; what fails a check goes to the rejects."""

    def __init__(
        self, dataset: str, frame: str, auditor: Auditor, counts: Counts, rejects: IO[str]
    ) -> None:
        self.dataset = dataset
        self.frame_name = frame
        self.frame, _ = parse_frame(frame)
        self.auditor = auditor
        self.counts = counts
        self.rejects = rejects

    def check(self, row: Row) -> Sample | None:
        """The sample of a row, or None when the row was rejected."""
        counts = self.counts
        counts.rows_in += 1
        counts.elements_in += len(row.elements)
        if row.cell:
            counts.cells[row.cell] += 1
        sample = Sample(
            id=f"{self.dataset}:{row.name}",
            dataset=self.dataset,
            media=row.media,
            messages=row.messages,
            frame=self.frame,
            group=row.group,
            meta=dict(row.meta),
        )
        try:
            if row.rejection:
                raise row.rejection
            self._check_elements(sample, row, self._check_media(sample, row))
        except Rejection as rejection:
            counts.rows_rejected += 1
            counts.elements_rejected += len(row.elements)
            self._reject(row.name, rejection)
            return None
        counts.rows_kept += 1
        counts.clipped += row.clipped
        counts.elements_kept += len(sample.boxes)
        counts.elements_rejected += len(row.elements) - len(sample.boxes)
        if row.cell:
            counts.cells_kept[row.cell] += 1
        return sample

    def _check_media(self, sample: Sample, row: Row) -> int:
        """Fill in what the audit found out about the media.

        Returns:
            The EXIF orientation by which the row's boxes must follow their image; 1 if they lie on
            it as it is.
        """
        turn = 1
        facts = []
        for medium in sample.media:
            declared = medium.width, medium.height
            audit, note = self.auditor.check(
                medium.path,
                *declared,
                in_pixels=self.frame == "pixel",
                kind=medium.kind,
                boxes_follow=bool(row.elements),
            )
            if audit.boxes_turn(*declared):
                turn = audit.orientation
            medium.width, medium.height, medium.sha256 = audit.width, audit.height, audit.sha256
            facts.append(audit.facts)
            if audit.orientation != 1:
                sample.meta["exif_orientation"] = audit.orientation
            if note:
                sample.meta["declared_size"] = note
        if any(facts):
            sample.meta["media"] = facts
        return turn

    def _check_elements(self, sample: Sample, row: Row, turn: int) -> None:
        """Fill boxes and points; ``points[i]`` is what to aim at in ``boxes[i]``."""
        replaced = []
        clipped = 0
        rejections = []
        for number, element in enumerate(row.elements):
            try:
                box, point, was_clipped, was_replaced = self._check_element(sample, element, turn)
            except Rejection as rejection:
                if len(row.elements) == 1:
                    raise
                rejections.append((f"{row.name}/{number}", rejection))
                continue
            if was_replaced:
                replaced.append(len(sample.boxes))
            clipped += was_clipped
            sample.boxes.append(box)
            sample.points.append(point)
        for name, rejection in rejections:
            self._reject(name, rejection)
        if row.elements and not sample.boxes:
            raise Rejection("no_elements_left", f"all {len(row.elements)} elements were rejected")
        if replaced:
            sample.meta["points_replaced"] = replaced
        self.counts.clipped += clipped
        self.counts.points_replaced += len(replaced)

    def _check_element(
        self, sample: Sample, element: Element, turn: int
    ) -> tuple[Box, Point, bool, bool]:
        if not isinstance(element.label, str):
            raise Rejection("bad_instruction", f"a {type(element.label).__name__}, not text")
        if not (label := element.label.strip()):
            raise Rejection("empty_instruction", "no text")
        if len(sample.media) != 1:
            raise Rejection("bad_row", f"a box on {len(sample.media)} media")
        width, height = sample.media[0].width, sample.media[0].height
        if turn in TURNED:
            width, height = height, width
        corners, clipped = check_box(element.box, self.frame_name, width, height)
        if element.pixel_box is not None:
            check_agreement(corners, self.frame_name, element.pixel_box, width, height)
        point, replaced = check_point(element.point, corners)
        if turn > 1:
            scale_x, scale_y = frame_scale(self.frame, width, height)
            size = width / scale_x, height / scale_y
            left, top, right, bottom = upright(corners, turn, *size)
            corners = [min(left, right), min(top, bottom), max(left, right), max(top, bottom)]
            point = list(upright(point, turn, *size))
        box = Box(label=label, xyxy=corners, kind=element.kind)
        return box, Point(label=label, xy=point), clipped, replaced

    def _reject(self, name: str, rejection: Rejection) -> None:
        self.counts.reasons[rejection.reason] += 1
        self.counts.examples.setdefault(rejection.reason, f"{name}: {rejection}")
        line = {
            "dataset": self.dataset,
            "row": name,
            "stage": "convert",
            "reason": rejection.reason,
            "detail": rejection.detail,
        }
        self.rejects.write(canonical_json(line) + "\n")


def _frame(dataset: str, options: dict[str, Any], format_module: Any) -> str:
    """The declared frame, which must be one that the format can have."""
    frame = options["frame"]
    allowed = getattr(format_module, "FRAMES", None)
    if allowed == () and frame is None:
        return "unit_xyxy"
    if frame is None or (allowed is not None and frame not in allowed):
        raise ConfigError(
            f"datasets.{dataset}.frame: {frame!r} with format {options['format']}; declare "
            + (" or ".join(allowed or ["none"]) if allowed is not None else " or ".join(FRAMES))
        )
    parse_frame(frame)
    return frame


def _blocks(rows: Iterator[Row], size: int) -> Iterator[list[Row]]:
    """Consecutive rows of one file, or of files that share a block, at most ``size`` together."""
    for _, together in groupby(rows, key=lambda row: row.block or row.file):
        while block := list(islice(together, size)):
            yield block
