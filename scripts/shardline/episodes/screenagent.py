"""ScreenAgent: remote desktops, a folder a session with a ``*.json`` a step, named by its time.

A step has ``task_prompt_en`` and ``task_prompt_zh``, ``saved_image_name`` in ``images/`` beside it,
``video_width`` and ``video_height``, and ``actions``, whose ``mouse_position`` is
``{width, height}`` in pixels of the video. Plans and judgements of a plan are no actions at the
screen: such steps are rejected as ``no_action``. Files named ``..._neg_...`` are examples of what
not to say.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

from shardline.annotations import text_fields
from shardline.episodes.desktop import SPACE, check_pointed, direction, keys_text
from shardline.episodes.steps import Action, Episode, Screens, Step, point, text_of
from shardline.errors import DataError
from shardline.records import first_of, read_records
from shardline.rows import Rejection, brief
from shardline.samples import Medium

ANNOTATIONS = ("*/*/*.json", "*/*.json", "*.json")
UNSEEN = ("PlanAction", "EvaluateSubTaskAction")  # said about the task, not done at the screen
MOUSE = {
    "click": "CLICK",
    "double_click": "DOUBLE_CLICK",
    "move": "MOVE",
    "drag": "DRAG",
    "down": "MOUSE_DOWN",
    "up": "MOUSE_UP",
    "scroll_up": "SCROLL",
    "scroll_down": "SCROLL",
}
KEYBOARD = {"press": "PRESS", "text": "TYPE", "input": "TYPE", "down": "KEY_DOWN", "up": "KEY_UP"}
BUTTONS = {"right": "RIGHT_CLICK", "middle": "MIDDLE_CLICK"}


def read(raw: Path, files: list[str], language: str) -> Iterator[Episode]:
    """Yield the sessions; a file that cannot be read is a rejected step of its own."""
    for folder, together in groupby(files, key=lambda file: PurePosixPath(file).parent):
        screens = Screens(raw, [f"{folder}/images", f"{folder}"])
        episode = Episode(name=folder.name or "session", space=SPACE)
        for number, file in enumerate(together):
            step = Step(file=file, index=0, number=number, block=f"{folder.parent}")
            try:
                _fill(step, _record(raw, file), screens, language)
            except Rejection as rejection:
                step.rejection = rejection
            episode.steps.append(step)
        yield episode


def _record(raw: Path, file: str) -> dict[str, Any]:
    try:
        records = [record for _, record in read_records(raw, file, ())]
    except DataError as error:
        detail = str(error).removeprefix(f"{raw / file} ")
        raise Rejection("malformed_json", detail) from None
    if len(records) != 1:
        raise Rejection("bad_row", f"{len(records)} objects, not one")
    if isinstance(records[0], Rejection):
        raise records[0]
    return records[0]


def _fill(step: Step, record: dict[str, Any], screens: Screens, language: str) -> None:
    step.task = first_of(record, (f"task_prompt_{language}", "task_prompt"))
    step.meta = text_fields(record, ("session_id",))
    if "_neg_" in PurePosixPath(step.file).name:
        raise Rejection("negative_example", "an answer that is wrong on purpose")
    actions = record.get("actions")
    if not isinstance(actions, list):
        raise Rejection("bad_row", f"`actions` is {brief(actions)}, not a list")
    kinds = [action.get("action_type") if isinstance(action, dict) else None for action in actions]
    if all(kind in UNSEEN for kind in kinds):
        raise Rejection("no_action", f"the step is {', '.join(dict.fromkeys(kinds)) or 'empty'}")
    size = [record.get("video_width"), record.get("video_height")]
    image = screens.find(record.get("saved_image_name"), None if size == [None, None] else size)
    screens.measure(image)
    done = [
        _action(action, kind, image)
        for action, kind in zip(actions, kinds, strict=True)
        if kind not in UNSEEN
    ]
    check_pointed(done)
    step.image, step.actions = image, done


def _action(action: Any, kind: Any, image: Medium) -> Action:
    if kind == "MouseAction":
        return _mouse(action, image)
    if kind == "KeyboardAction":
        return _keyboard(action)
    if kind == "WaitAction":
        seconds = action.get("wait_time")
        value = None if seconds is None else text_of(seconds, "wait_time")
        return Action(name="WAIT", value=value)
    raise Rejection("bad_action", f"{brief(action)} is no known action")


def _mouse(action: dict[str, Any], image: Medium) -> Action:
    kind = text_of(action.get("mouse_action_type"), "mouse_action_type").lower()
    if kind not in MOUSE:
        raise Rejection("bad_action", f"mouse_action_type is {brief(kind)}")
    name, value = MOUSE[kind], None
    button = text_of(first_of(action, ("mouse_button",)) or "left", "mouse_button").lower()
    if name == "CLICK":
        name = BUTTONS.get(button, name)
    elif name == "SCROLL":
        value = direction(kind.removeprefix("scroll_"))
    elif name in ("MOUSE_DOWN", "MOUSE_UP"):
        value = button
    position = action.get("mouse_position")
    if position is not None:
        if not isinstance(position, dict):
            raise Rejection("bad_point", f"mouse_position is {brief(position)}, not an object")
        position = point([position.get("width"), position.get("height")], image.width, image.height)
    return Action(name=name, value=value, position=position)


def _keyboard(action: dict[str, Any]) -> Action:
    kind = action.get("keyboard_action_type")
    if kind is None:
        kind = "text" if action.get("keyboard_key") is None else "press"
    name = KEYBOARD.get(text_of(kind, "keyboard_action_type").lower())
    if name is None:
        raise Rejection("bad_action", f"keyboard_action_type is {brief(kind)}")
    if name == "TYPE":
        text = first_of(action, ("keyboard_text", "keyboard_input"))
        return Action(name=name, value=text_of(text, "keyboard_text"))
    keys = keys_text(action.get("keyboard_key"), "+")
    return Action(name="HOTKEY" if name == "PRESS" and "+" in keys[1:] else name, value=keys)
