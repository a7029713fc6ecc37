"""AgentNetBench trajectories: ``*.json``, each the steps of one task, screenshots in ``images/``.

A step with one click whose target is boxed is a grounding sample: the step's low-level
instruction, and the box as fractions ``[left, top, width, height]`` of the screenshot. The file
also states the box in pixels; the two must agree on the screenshot that is there. Steps that
type, scroll or end the task are rejected as ``no_click``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from shardline.annotations import (
    ImageFinder,
    check_options,
    find_annotations,
    is_text,
    read_annotation,
    text_fields,
)
from shardline.boxes import parse_numbers
from shardline.errors import DataError
from shardline.rows import Element, Rejection, Row, brief

DEFAULTS = {"annotations": "*.json"}
FRAMES = ("unit_xywh",)


def read(raw: Path, options: dict[str, Any]) -> Iterator[Row]:
    """Yield every step of every trajectory; a file that is none is one rejected row."""
    options = check_options(options, DEFAULTS, "format_options of agentnetbench")
    finder = ImageFinder(raw, ["images", ""])
    for file in find_annotations(raw, [options["annotations"]]):
        folder = f"{PurePosixPath(file).parent}"
        try:
            trajectory = _trajectory(raw, file)
        except Rejection as rejection:
            yield Row(file=file, index=0, block=folder, rejection=rejection)
            continue
        for index, step in enumerate(trajectory["steps"]):
            row = Row(file=file, index=index, block=folder)
            try:
                _fill(row, step, finder)
                row.meta |= text_fields(trajectory, ("task_id",))
            except Rejection as rejection:
                row.rejection = rejection
            yield row


def _trajectory(raw: Path, file: str) -> dict[str, Any]:
    try:
        content = read_annotation(raw, file)
    except DataError as error:
        raise Rejection("malformed_json", str(error).removeprefix(f"{raw / file} ")) from None
    if not isinstance(content, dict) or not isinstance(content.get("steps"), list):
        raise Rejection("bad_row", "no object with a list `steps`")
    if not is_text(content):
        raise Rejection("bad_text", "half a surrogate pair, which is no character")
    return content


def _fill(row: Row, step: Any, finder: ImageFinder) -> None:
    if not isinstance(step, dict):
        raise Rejection("bad_row", f"a {type(step).__name__}, not an object")
    clicks = [action for action in _list(step, "ground_truth_actions") if _is_click(action)]
    if not clicks:
        raise Rejection("no_click", f"the step is {brief(step.get('action'))}")
    if len(clicks) > 1:
        raise Rejection("several_clicks", f"one instruction, {len(clicks)} clicks")
    point = _position(clicks[0])
    box = _target(_list(_dict(clicks[0], "metadata"), "bboxes"), point)
    row.elements = [
        Element(
            label=_dict(step, "inner_monologue").get("low_level_instruction"),
            box=box.get("rel_bbox"),
            point=point,
            pixel_box=box.get("abs_bbox"),
        )
    ]
    row.media = [finder.medium(step.get("image"))]
    row.meta = {"action": clicks[0]["type"]}


def _is_click(action: Any) -> bool:
    kind = action.get("type") if isinstance(action, dict) else None
    return isinstance(kind, str) and kind.lower().endswith("click")


def _position(action: dict[str, Any]) -> list[Any] | None:
    position = _dict(_dict(action, "params"), "position")
    return [position["x"], position["y"]] if {"x", "y"} <= set(position) else None


def _target(boxes: list[Any], point: list[Any] | None) -> dict[str, Any]:
    """The box that is clicked: the only one, else the smallest around the click."""
    boxes = [box for box in boxes if isinstance(box, dict)]
    if not boxes:
        raise Rejection("no_box", "the click has no box")
    if len(boxes) == 1:
        return boxes[0]
    around = []
    x, y = parse_numbers(point, 2)
    for box in boxes:
        left, top, width, height = parse_numbers(box.get("rel_bbox"), 4)
        if left <= x <= left + width and top <= y <= top + height:
            around.append((width * height, len(around), box))
    if not around:
        raise Rejection("no_box", f"none of the {len(boxes)} boxes holds the click {point}")
    return min(around)[2]


def _dict(value: dict[str, Any], key: str) -> dict[str, Any]:
    item = value.get(key)
    return item if isinstance(item, dict) else {}


def _list(value: dict[str, Any], key: str) -> list[Any]:
    item = value.get(key)
    return item if isinstance(item, list) else []
