"""Mind2Web as SeeClick repacks it: ``mind2web_data_*.json``, a list of episodes.

An episode has ``annotation_id``, ``confirmed_task``, ``actions`` and, beside them, ``action_reprs``
such as ``[link]  Cars -> CLICK``. The screenshot of an action is
``<annotation_id>-<action_uid>.jpg``; its target is ``bbox`` ``{x, y, width, height}`` in pixels of
it. As in ShowUI, an action's value is the text that is typed, else what the target is called.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from shardline.annotations import folders_near, text_fields
from shardline.episodes.steps import Action, Episode, Screens, Space, Step, box_centre, text_of
from shardline.records import Record, first_of, read_records
from shardline.rows import Rejection, brief

ANNOTATIONS = ("mind2web_data_*.json", "*/mind2web_data_*.json")
SPACE = Space(
    screen="website",
    actions={
        "CLICK": "the position; the value is what the element is called",
        "TYPE": "the text to type as value, and the position",
        "SELECT": "the position of the list; the value is what the list is called",
    },
)
SPLIT = re.compile(r"mind2web_data_(\w+)\.json")
META_KEYS = ("website", "domain", "subdomain")
BOX_KEYS = ("x", "y", "width", "height")


def read(raw: Path, files: list[str], language: str) -> Iterator[Episode]:
    """Yield the episodes of all files; a record that is none is one rejected step."""
    for file in files:
        screens = Screens(
            raw, folders_near(file, ("images", "mind2web_images", "mind2web_imgs", ""))
        )
        split = SPLIT.fullmatch(PurePosixPath(file).name)
        meta = {"split": split[1]} if split else {}
        for index, record in read_records(raw, file, ()):
            yield _episode(file, index, record, screens, meta)


def _episode(
    file: str, index: int, record: Record, screens: Screens, meta: dict[str, str]
) -> Episode:
    episode = Episode(name=f"{file}#{index}", space=SPACE)
    try:
        if isinstance(record, Rejection):
            raise record
        if not isinstance(actions := record.get("actions"), list) or not actions:
            raise Rejection("bad_row", f"`actions` is {brief(actions)}, not a filled list")
        episode.name = text_of(record.get("annotation_id"), "annotation_id")
    except Rejection as rejection:
        episode.steps = [Step(file=file, index=index, number=0, rejection=rejection)]
        return episode
    told = record.get("action_reprs")
    if not isinstance(told, list) or len(told) != len(actions):
        told = [None] * len(actions)
    task = record.get("confirmed_task")
    for part, (action, text) in enumerate(zip(actions, told, strict=True)):
        step = Step(file=file, index=index, part=part, number=part, task=task)
        step.meta = {**meta, **text_fields(record, META_KEYS)}
        try:
            _fill(step, episode.name, action, text, screens)
        except Rejection as rejection:
            step.rejection = rejection
        episode.steps.append(step)
    return episode


def _fill(step: Step, episode: str, action: Any, told: Any, screens: Screens) -> None:
    if not isinstance(action, dict) or not isinstance(action.get("operation"), dict):
        raise Rejection("bad_row", f"{brief(action)} is no object with an object `operation`")
    step.meta["action_uid"] = text_of(action.get("action_uid"), "action_uid")
    operation = action["operation"]
    name = first_of(operation, ("op", "original_op"))
    if name not in tuple(SPACE.actions):
        raise Rejection("bad_action", f"{brief(name)} is none of {', '.join(SPACE.actions)}")
    if not isinstance(box := action.get("bbox"), dict):
        raise Rejection("no_box", "the target of the action has no `bbox`")
    image = screens.find(f"{episode}-{step.meta['action_uid']}.jpg")
    screens.measure(image)
    corners = [box.get(key) for key in BOX_KEYS]
    position, clipped = box_centre(corners, "pixel_xywh", image.width, image.height)
    value = text_of(operation.get("value"), "the typed text") if name == "TYPE" else _label(told)
    if name == "SELECT":
        step.meta |= text_fields({"selected": operation.get("value")}, ("selected",))
    step.actions = [Action(name=name, value=value, position=position)]
    step.image, step.clipped = image, int(clipped)


def _label(told: Any) -> str | None:
    """What the target is called: the text between ``] `` and `` ->``."""
    if not isinstance(told, str):
        return None
    label, arrow, _ = told.partition("]")[2].partition(" ->")
    return (label.strip() or None) if arrow else None
