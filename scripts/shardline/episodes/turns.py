"""Writing the steps of an episode as conversations, as ShowUI trains navigation.

One step is a question with the task, the last actions and screenshots and the present screenshot,
and the action as the answer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from shardline.episodes.steps import Space, Step
from shardline.samples import Medium

INTERLEAVINGS = ("tttt", "vvvv", "vtvt", "tvtv", "vvtt", "ttvv")
NONE = {"json": "null", "python": "None"}  # how an answer of each style says "nothing"


def conversation(
    step: Step,
    past: Sequence[Step],
    space: Space,
    *,
    interleaving: str,
    answer: str,
    decimals: int,
    prompt: str | None,
) -> tuple[list[dict[str, Any]], list[Medium]]:
    """The messages of one step and their media, in order.

    Args:
        step: the step; its task is text, it has an image and actions.
        past: the steps before it that are told, the earliest first.
        space: what can be done.
        interleaving: how the past is told, one of `INTERLEAVINGS`. Its letters stand for actions
            as text (t) and screenshots (v): of each step in turn, or first one kind of all steps,
            then the other.
        answer: ``json`` or ``python``, see `answer_text`.
        decimals: of positions.
        prompt: the text in front of the task; None: `instructions`.
    """
    if prompt is None:
        prompt = instructions(space, answer)
    parts: list[str | Medium] = [*filter(None, [prompt]), f"Task: {step.task}"]
    if len(set(interleaving[:2])) == 2:
        told = [(letter, earlier) for earlier in past for letter in interleaving[:2]]
    else:
        told = [(letter, earlier) for letter in dict.fromkeys(interleaving) for earlier in past]
    for letter, earlier in told:
        parts.append(earlier.image if letter == "v" else answer_text(earlier, answer, decimals))
    parts.append(step.image)
    media = [part for part in parts if isinstance(part, Medium)]
    messages = [
        {"role": "user", "content": _content(parts)},
        {"role": "assistant", "content": [_text(answer_text(step, answer, decimals))]},
    ]
    return messages, media


def answer_text(step: Step, style: str, decimals: int) -> str:
    """A step's action as ShowUI's dictionary, with ``action``, ``value``, ``position`` in order.

    ``json`` writes it as JSON, ``python`` as Python does, which is what ShowUI itself trains on.
    Several actions of one step are a list.
    """
    actions = [action.to_json(decimals) for action in step.actions]
    value = actions[0] if len(actions) == 1 else actions
    return str(value) if style == "python" else json.dumps(value, ensure_ascii=False)


def instructions(space: Space, style: str) -> str:
    """The default text in front of the task: the form of the answer, and what can be done."""
    quote = "'" if style == "python" else '"'
    form = "{'action': NAME, 'value': TEXT, 'position': [x, y]}".replace("'", quote)
    lines = [
        f"You operate a {space.screen}. You are given a task, the last actions or screenshots if "
        "there are any, and at the end the present screenshot. Answer with the next action:",
        form,
        "The position is a point on the present screenshot, in fractions of its width and height; "
        f"[[x1, y1], [x2, y2]] are a start and an end. What an action does not have is "
        f"{NONE[style]}. The actions are:",
        *(f"{name}: {arguments}" for name, arguments in space.actions.items()),
    ]
    return "\n".join(lines)


def _content(parts: Sequence[str | Medium]) -> list[dict[str, Any]]:
    """Parts of a message: each medium one, neighbouring texts one, of whole lines."""
    content: list[dict[str, Any]] = []
    for part in parts:
        if isinstance(part, Medium):
            content.append({"type": part.kind})
        elif content and content[-1]["type"] == "text":
            content[-1]["text"] += f"{part}\n"
        else:
            content.append(_text(f"{part}\n"))
    return content


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}
