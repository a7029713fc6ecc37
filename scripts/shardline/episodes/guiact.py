"""GUIAct: ``{web-single,web-multi,smartphone}_{train,test}_data.json``, a list of steps.

A step has ``uid`` (``uid_<record|episode>_<number>_step_<number>``; without a step it is an
episode of its own), ``image_id`` without ending, ``image_size {width, height}``, ``question``,
``thoughts`` and ``actions_label``: an action, or a list of them. Coordinates are text, of which
``related`` are fractions: ``<box>0.1, 0.2, 0.3, 0.4</box>``, ``<point>0.1, 0.2</point>``.

The screenshots are published as base64 in parquet files, to be written as files of their own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

from shardline.annotations import folders_near, text_fields
from shardline.boxes import parse_numbers
from shardline.episodes.steps import (
    Action,
    Episode,
    Position,
    Screens,
    Space,
    Step,
    box_centre,
    point,
    text_of,
)
from shardline.records import Record, first_of, read_records
from shardline.rows import Rejection, brief
from shardline.samples import Medium

ANNOTATIONS = ("*_data.json", "*/*_data.json")
WEB = Space(
    screen="website",
    actions={
        "CLICK": "the position",
        "INPUT": "the text to type as value, and the position",
        "SELECT": "what to select as value, and the position",
        "HOVER": "the position",
        "ANSWER": "the answer as value",
        "ENTER": "nothing else",
        "SCROLL": "up, down, left or right as value",
        "SELECT_TEXT": "a start and an end as position",
        "COPY": "the text to copy as value, or nothing else",
    },
)
PHONE = Space(
    screen="smartphone",
    actions={
        "TAP": "the position",
        "SWIPE": "a start and an end as position",
        "INPUT": "the text to type as value",
        "ANSWER": "the answer, or the state of the task, as value",
        "ENTER": "nothing else",
    },
)
ALIASES = {"COPY_TEXT": "COPY"}
WITH_TEXT = ("INPUT", "SELECT", "ANSWER", "COPY")
TARGETED = ("CLICK", "SELECT", "HOVER", "TAP", "SWIPE", "SELECT_TEXT")  # nowhere without a target
UID = re.compile(r"(.+)_step_(\d+)")
COORDINATES = re.compile(r"\s*(?:<(?:box|point)>)?([^<>]*)(?:</(?:box|point)>)?\s*")
ENDINGS = (".png", ".jpg", ".jpeg", "")


def read(raw: Path, files: list[str], language: str) -> Iterator[Episode]:
    """Yield the episodes of all files: neighbouring steps with the same task and number."""
    times: Counter[str] = Counter()
    for file in files:
        subset = PurePosixPath(file).name.partition("_")[0]
        folders = folders_near(file, ("images", f"images/{subset}", subset, ""))
        screens = Screens(raw, folders, ENDINGS)
        space = PHONE if subset == "smartphone" else WEB
        records = ((_place(index, record), index, record) for index, record
                   in read_records(raw, file, ()))  # fmt: skip
        for (name, _), group in groupby(records, key=lambda item: item[0][:2]):
            times[name] += 1
            again = f"#{times[name]}" if times[name] > 1 else ""  # ids are used for several tasks
            episode = Episode(name=name + again, space=space)
            for (_, _, number), index, record in group:
                step = Step(file=file, index=index, number=number, meta={"subset": subset})
                try:
                    _fill(step, record, screens, space)
                except Rejection as rejection:
                    step.rejection = rejection
                episode.steps.append(step)
            yield episode


def _place(index: int, record: Record) -> tuple[str, str, int]:
    """The episode a record says it is of, its task, and its number there."""
    if isinstance(record, Rejection):
        return f"#{index}", "", 0
    uid = first_of(record, ("uid", "image_id"))
    task = str(record.get("question"))
    if not isinstance(uid, str):
        return f"#{index}", task, 0
    if match := UID.fullmatch(uid):
        return match[1], task, int(match[2])
    return f"{uid}", f"{index}", 0


def _fill(step: Step, record: Record, screens: Screens, space: Space) -> None:
    if isinstance(record, Rejection):
        raise record
    step.task = record.get("question")
    step.meta |= text_fields(record, ("uid", "thoughts"))
    labels = record.get("actions_label")
    labels = [labels] if isinstance(labels, dict) else labels
    if not isinstance(labels, list):
        raise Rejection("bad_row", f"`actions_label` is {brief(labels)}, no action or list")
    if not labels:
        raise Rejection("no_action", "`actions_label` is empty")
    size = record.get("image_size")
    if isinstance(size, dict):
        size = [size.get("width"), size.get("height")]
    image = screens.find(record.get("image_id"), size)
    screens.measure(image)
    step.actions = [_action(step, label, image, space) for label in labels]
    step.image = image


def _action(step: Step, label: Any, image: Medium, space: Space) -> Action:
    if not isinstance(label, dict):
        raise Rejection("bad_action", f"{brief(label)} is no object")
    name = text_of(label.get("name"), "name").upper()
    name = ALIASES.get(name, name)
    if name not in space.actions:
        raise Rejection("bad_action", f"{brief(name)} is none of {', '.join(space.actions)}")
    position = _position(step, label, image)
    if position is None and name in TARGETED:
        raise Rejection("no_box", f"{name} without element, point or dual_point")
    value = label.get("text") if name in WITH_TEXT else None
    if name == "SCROLL":
        value = _direction(label)
    elif value is not None or name in ("INPUT", "ANSWER"):
        value = text_of(value, "text")
    return Action(name=name, value=value, position=position)


def _position(step: Step, label: dict[str, Any], image: Medium) -> Position | None:
    """The centre of the element, the point, or the start and end of an action."""
    if (target := label.get("element")) is not None:
        box = _numbers(_related(target))
        centre, clipped = box_centre(box, "unit_xyxy", image.width, image.height)
        step.clipped += clipped
        return centre
    if (target := label.get("point")) is not None:
        return point(_numbers(_related(target)))
    if (target := label.get("dual_point")) is not None:
        ends = _related(target)
        if not isinstance(ends, dict):
            raise Rejection("bad_point", f"{brief(target)} has no start and end")
        return [point(_numbers(ends.get(end))) for end in ("from", "to")]
    return None


def _direction(label: dict[str, Any]) -> str:
    """Where a scroll goes, by the sign of ``down``, else of ``right``."""
    amounts = _related(label.get("scroll"))
    for key, forth, back in (("down", "down", "up"), ("right", "right", "left")):
        try:
            (amount,) = parse_numbers([amounts.get(key) if isinstance(amounts, dict) else None], 1)
        except Rejection:
            continue
        if amount:
            return forth if amount > 0 else back
    raise Rejection("bad_action", f"a scroll by {brief(label.get('scroll'))}")


def _related(target: Any) -> Any:
    """The fractions of a target, which also has them in pixels."""
    return target.get("related") if isinstance(target, dict) else target


def _numbers(value: Any) -> list[str]:
    """The numbers, as text, of ``<box>...</box>``, ``<point>...</point>`` or bare text."""
    match = COORDINATES.fullmatch(value) if isinstance(value, str) else None
    if not match:
        raise Rejection("bad_box", f"{brief(value)} is no <box> or <point> of fractions")
    return match[1].split(",")
