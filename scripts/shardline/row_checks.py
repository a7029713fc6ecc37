"""The checks of one row's claims: boxes and points, and what the audit found out of its media."""

from __future__ import annotations

from typing import Any

import orjson

from shardline.boxes import check_agreement, check_box, check_point, parse_frame
from shardline.conversion_counts import Counts
from shardline.files import canonical_json
from shardline.images import TURNED, upright
from shardline.media import Audits
from shardline.rows import Element, Rejection, Row
from shardline.samples import Box, Point, Sample, frame_scale

MESSAGES = b'"messages":'
NO_MESSAGES = MESSAGES + b"[]"


class Checker:
    """Turns rows into samples; what fails a check goes to the rejects."""

    def __init__(self, dataset: str, frame: str, audits: Audits) -> None:
        """``frame`` is the declared one, ``audits`` are those of all media of the rows."""
        self.dataset = dataset
        self.frame_name = frame
        self.frame, _ = parse_frame(frame)
        self.audits = audits
        self.counts = Counts()
        self.rejects: list[str] = []  # lines of JSON

    def check(self, row: Row, messages: bytes) -> bytes | None:
        """The sample of a row, as a line of JSON; None when the row was rejected.

        Args:
            row: the row; its ``messages`` are not looked at.
            messages: what `json_of` makes of them.
        """
        counts = self.counts
        counts.rows_in += 1
        counts.elements_in += len(row.elements)
        if row.cell:
            counts.cells[row.cell] += 1
        sample = Sample(
            id=f"{self.dataset}:{row.name}",
            dataset=self.dataset,
            media=row.media,
            frame=self.frame,
            group=row.group,
            meta=dict(row.meta),
        )
        try:
            if row.rejection:
                raise row.rejection
            turn = self._check_media(sample, row)
            if row.elements:
                self._check_elements(sample, row, turn)
            # No text before the place has these quotes, and no other key is called so.
            line = json_of(sample.to_json()).replace(NO_MESSAGES, MESSAGES + messages, 1) + b"\n"
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
        return line

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
            audit, note = self.audits.check(
                medium.path,
                *declared,
                in_pixels=self.frame == "pixel",
                kind=medium.kind,
                boxes_follow=bool(row.elements),
            )
            if audit.boxes_turn(*declared):
                turn = audit.orientation
            medium.width, medium.height = audit.width, audit.height
            medium.bytes, medium.sha256 = audit.bytes, audit.sha256
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
        self.rejects.append(canonical_json(line) + "\n")


def json_of(value: Any) -> bytes:
    """Canonical JSON, but for how floats are written.

    Raises:
        Rejection: ``bad_value``: it has none.
    """
    try:
        text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
        if b"null" not in text:  # which may stand for NaN
            return text
    except TypeError:  # it is no text, or a whole number beyond 64 bits
        pass
    try:
        return canonical_json(value).encode()
    except (ValueError, TypeError):
        detail = "it holds half a character (a lone surrogate) or a number that is none (NaN)"
        raise Rejection("bad_value", detail) from None
