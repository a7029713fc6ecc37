"""What can be done on a computer's screen, in the words that all logs of desktops are told in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shardline.boxes import parse_numbers
from shardline.episodes.steps import Action, Space, text_of
from shardline.rows import Rejection, brief

SPACE = Space(
    screen="computer",
    actions={
        "CLICK": "the position",
        "DOUBLE_CLICK": "the position",
        "TRIPLE_CLICK": "the position",
        "RIGHT_CLICK": "the position",
        "MIDDLE_CLICK": "the position",
        "MOVE": "the position",
        "DRAG": "the position to drag to",
        "MOUSE_DOWN": "the button as value",
        "MOUSE_UP": "the button as value",
        "SCROLL": "up, down, left or right as value, and the position if it matters",
        "TYPE": "the text to type as value",
        "PRESS": "the key, or several keys one after the other, as value",
        "HOTKEY": "the keys that are pressed together as value, joined by +",
        "KEY_DOWN": "the key as value",
        "KEY_UP": "the key as value",
        "WAIT": "the seconds as value, if it matters",
        "TERMINATE": "success or failure as value",
    },
)
CLICKS = ("CLICK", "DOUBLE_CLICK", "TRIPLE_CLICK", "RIGHT_CLICK", "MIDDLE_CLICK")
POINTED = (*CLICKS, "MOVE", "DRAG")


def direction(amount: Any, *, sideways: bool = False) -> str:
    """Where a scroll by ``amount`` goes: positive is up, or right if ``sideways``.

    Raises:
        Rejection: ``bad_action``: nothing, or no number.
    """
    if amount in ("up", "down", "left", "right"):
        return amount
    try:
        (number,) = parse_numbers([amount], 1)
    except Rejection:
        number = 0.0
    if not number:
        raise Rejection("bad_action", f"a scroll by {brief(amount)}")
    return ("left", "right")[number > 0] if sideways else ("down", "up")[number > 0]


def keys_text(keys: Any, joint: str) -> str:
    """One key or a list of them as text.

    Raises:
        Rejection: ``bad_action``: there are none.
    """
    names = [text_of(key, "a key") for key in (keys if isinstance(keys, list | tuple) else [keys])]
    if not names or not all(names):
        raise Rejection("bad_action", f"the keys {brief(keys)}")
    return joint.join(names)


def check_pointed(actions: Sequence[Action]) -> None:
    """See that each action at a place has one, its own or that of an action before it in the step.

    Raises:
        Rejection: ``no_position``.
    """
    placed = False
    for action in actions:
        placed = placed or action.position is not None
        if action.name in POINTED and not placed:
            raise Rejection("no_position", f"{action.name} is nowhere")
