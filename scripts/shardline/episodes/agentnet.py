"""AgentNet: desktop tasks of people; positions are fractions of the screenshot.

The benchmark has a ``*.json`` a task with ``task_id``, ``high_level_task_description`` and
``steps``, each with ``image``, ``step_num`` and ``ground_truth_actions`` ``[{type, params}]``. The
training data has a line a task with ``instruction`` and ``traj``, each with ``image``, ``index``
and ``value``, whose ``code`` calls functions of pyautogui. Steps of it that are marked as wrong
(``last_step_correct``) are part of the history, but are not taught.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from shardline.annotations import folders_near
from shardline.episodes.desktop import SPACE, check_pointed, direction, keys_text
from shardline.episodes.steps import Action, Episode, Screens, Step, point, text_of
from shardline.errors import DataError
from shardline.records import Record, first_of, read_records
from shardline.rows import Rejection, brief

ANNOTATIONS = ("agentnet_*.jsonl", "*.jsonl", "*.json", "*/*.json")
TASK_KEYS = (
    "instruction",
    "high_level_task_description",
    "user_task_description",
    "natural_language_task",
)
XY = ("x", "y")
CLICK = (*XY, "clicks", "interval", "button")
# Names of actions in lower case: ours, and the functions' arguments in order.
KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "click": ("CLICK", CLICK),
    "leftclick": ("CLICK", CLICK),
    "doubleclick": ("DOUBLE_CLICK", XY),
    "tripleclick": ("TRIPLE_CLICK", XY),
    "rightclick": ("RIGHT_CLICK", XY),
    "middleclick": ("MIDDLE_CLICK", XY),
    "moveto": ("MOVE", XY),
    "dragto": ("DRAG", XY),
    "mousedown": ("MOUSE_DOWN", (*XY, "button")),
    "mouseup": ("MOUSE_UP", (*XY, "button")),
    "scroll": ("SCROLL", ("amount", *XY)),
    "vscroll": ("SCROLL", ("amount", *XY)),
    "hscroll": ("SCROLL", ("amount", *XY)),
    "write": ("TYPE", ("text",)),
    "typewrite": ("TYPE", ("text",)),
    "press": ("PRESS", ("keys",)),
    "hotkey": ("HOTKEY", ()),
    "keydown": ("KEY_DOWN", ("keys",)),
    "keyup": ("KEY_UP", ("keys",)),
    "wait": ("WAIT", ("seconds",)),
    "sleep": ("WAIT", ("seconds",)),
    "terminate": ("TERMINATE", ("status",)),
}
BUTTONS = {"right": "RIGHT_CLICK", "middle": "MIDDLE_CLICK"}
REPEATED = {"2": "DOUBLE_CLICK", "3": "TRIPLE_CLICK"}


def read(raw: Path, files: list[str], language: str) -> Iterator[Episode]:
    """Yield the tasks of all files; a record, or file, that is none is one rejected step."""
    for file in files:
        screens = Screens(
            raw, folders_near(file, ("images", "ubuntu_images", "win_mac_images", ""))
        )
        block = "" if file.endswith(".jsonl") else f"{PurePosixPath(file).parent}"
        following = 0
        try:
            for index, record in read_records(raw, file, ()):
                episode = _episode(file, index, record, screens)
                for step in episode.steps:
                    step.block = block
                yield episode
                following = index + 1
        except DataError as error:
            detail = str(error).removeprefix(f"{raw / file} ")
            episode = _rejected(file, following, Rejection("malformed_json", detail))
            episode.steps[0].block = block
            yield episode


def _rejected(file: str, index: int, rejection: Rejection) -> Episode:
    step = Step(file=file, index=index, number=0, rejection=rejection)
    return Episode(name=f"{file}#{index}", space=SPACE, steps=[step])


def _episode(file: str, index: int, record: Record, screens: Screens) -> Episode:
    try:
        if isinstance(record, Rejection):
            raise record
        steps = first_of(record, ("steps", "traj"))
        if not isinstance(steps, list) or not steps:
            raise Rejection("bad_row", "neither `steps` nor `traj` is a filled list")
    except Rejection as rejection:
        return _rejected(file, index, rejection)
    name = record.get("task_id")
    episode = Episode(name=name if isinstance(name, str) else f"{file}#{index}", space=SPACE)
    task = first_of(record, TASK_KEYS)
    for part, content in enumerate(steps):
        step = Step(file=file, index=index, part=part, number=part, task=task)
        try:
            _fill(step, content, screens)
        except Rejection as rejection:
            step.rejection = rejection
        episode.steps.append(step)
    return episode


def _fill(step: Step, content: Any, screens: Screens) -> None:
    if not isinstance(content, dict):
        raise Rejection("bad_row", f"{brief(content)}, not an object")
    number = first_of(content, ("step_num", "index"))
    if isinstance(number, int) and not isinstance(number, bool):
        step.number = number
    value = content.get("value")
    value = value if isinstance(value, dict) else {}
    calls = content.get("ground_truth_actions")
    if not calls:
        calls = _calls(first_of(value, ("code",)) or first_of(content, ("code", "action")))
    if not isinstance(calls, list) or not calls:
        raise Rejection("no_action", f"the step has {brief(calls)}")
    actions = [_action(call) for call in calls]
    check_pointed(actions)
    step.image = screens.find(content.get("image"))
    step.actions = actions
    if value.get("last_step_correct") is False:
        raise Rejection("marked_wrong", "the data marks this step as a mistake")


def _calls(code: Any) -> list[dict[str, Any]]:
    """The actions of a piece of code that calls functions with plain values, and nothing else.

    Raises:
        Rejection: ``no_action``, ``bad_action``.
    """
    if not isinstance(code, str) or not code.strip():
        raise Rejection("no_action", "the step has neither actions nor code")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes in texts
            return [_call(node) for node in ast.parse(code.strip()).body]
    except Rejection:
        raise
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise Rejection("bad_action", f"{brief(code)}: {type(error).__name__}") from None


def _call(node: ast.stmt) -> dict[str, Any]:
    call = node.value if isinstance(node, ast.Expr) else None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
        raise Rejection("bad_action", f"{brief(ast.unparse(node))} calls no function of a module")
    kind = call.func.attr.replace("_", "").lower()
    values = [ast.literal_eval(argument) for argument in call.args]
    params = {word.arg: ast.literal_eval(word.value) for word in call.keywords if word.arg}
    if kind == "hotkey" and values:
        params["keys"] = values[0] if isinstance(values[0], list | tuple) else values
    else:
        params |= dict(zip(KINDS.get(kind, ("", ()))[1], values, strict=False))
    return {"type": kind, "params": params}


def _action(call: Any) -> Action:
    kind = call.get("type") if isinstance(call, dict) else None
    kind = kind.replace("_", "").lower() if isinstance(kind, str) else ""
    if kind not in KINDS:
        raise Rejection("bad_action", f"{brief(call)} is no known action")
    params = call.get("params")
    params = params if isinstance(params, dict) else {}
    name = KINDS[kind][0]
    if name == "CLICK":
        button, clicks = params.get("button"), params.get("clicks")
        name = BUTTONS.get(str(button)) or REPEATED.get(str(clicks), name)
    return Action(name=name, value=_value(name, kind, params), position=_position(params))


def _position(params: dict[str, Any]) -> list[float] | None:
    place = params.get("position", params)
    if isinstance(place, dict):
        place = [place["x"], place["y"]] if {"x", "y"} <= set(place) else None
    return None if place is None else point(place)


def _value(name: str, kind: str, params: dict[str, Any]) -> str | None:
    value = None
    if name == "TYPE":
        value = text_of(first_of(params, ("text", "message", "content")), "the typed text")
    elif name == "SCROLL":
        amount = first_of(params, ("amount", "clicks", "pixels", "direction"))
        value = direction(amount, sideways=kind == "hscroll")
    elif name in ("HOTKEY", "PRESS", "KEY_DOWN", "KEY_UP"):
        value = keys_text(first_of(params, ("keys", "key")), "+" if name == "HOTKEY" else " ")
    elif name in ("MOUSE_DOWN", "MOUSE_UP"):
        value = text_of(params.get("button", "left"), "the button")
    elif name == "TERMINATE":
        value = text_of(params.get("status"), "the status")
    elif name == "WAIT":
        seconds = first_of(params, ("seconds", "time", "duration"))
        value = None if seconds is None else text_of(seconds, "the seconds")
    return value
