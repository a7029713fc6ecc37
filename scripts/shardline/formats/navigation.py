"""Episodes at a user interface: one row a step, with its task, its past and its action.

``format_options: {layout: ...}`` names how the episodes are recorded:

===============  ==================================================================================
``mind2web``     ``mind2web_data_*.json`` as SeeClick repacks it
``aitw``         Android in the Wild, ``aitw_data_*.json`` as SeeClick repacks it
``guiact``       GUIAct, ``{web-single,web-multi,smartphone}_*_data.json``
``agentnet``     AgentNetBench, a ``*.json`` a task, and AgentNet, a line a task in ``*.jsonl``
``screenagent``  ScreenAgent, a folder a session with a ``*.json`` a step
===============  ==================================================================================

A layout has coordinates of its own, so an entry of this format declares no frame; positions are
fractions of the present screenshot. ``group`` is the episode. ``meta`` has ``episode``, ``step``,
the steps that are told as ``history``, and the ``actions``, unrounded. A step without a screenshot,
or without an action, is rejected and not part of the history of later steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from shardline.annotations import check_options, find_annotations
from shardline.episodes import agentnet, aitw, guiact, mind2web, screenagent
from shardline.episodes.steps import Episode, Step
from shardline.episodes.turns import INTERLEAVINGS, NONE, conversation
from shardline.errors import ConfigError
from shardline.rows import Rejection, Row, brief

DEFAULTS = {
    "layout": None,
    "annotations": None,
    "history": 4,
    "interleaving": "tttt",
    "answer": "json",
    "decimals": 2,
    "language": "en",
    "prompt": None,
}
FRAMES = ()
LAYOUTS = {
    "agentnet": agentnet,
    "aitw": aitw,
    "guiact": guiact,
    "mind2web": mind2web,
    "screenagent": screenagent,
}
CHOICES = {
    "layout": tuple(LAYOUTS),
    "interleaving": INTERLEAVINGS,
    "answer": tuple(NONE),
    "language": ("en", "zh"),
}
LIMITS = {"history": 1000, "decimals": 6}


def read(raw: Path, options: dict[str, Any]) -> Iterator[Row]:
    """Yield the steps of all episodes, in the order of their files.

    Options:
        layout: how the episodes are recorded.
        annotations: glob of their files, where they are called otherwise.
        history: how many earlier steps are told at most.
        interleaving: how: `turns.INTERLEAVINGS`.
        answer: ``json``, or ``python`` as ShowUI itself writes actions.
        decimals: of positions.
        language: ``en`` or ``zh``, of layouts that have both.
        prompt: replaces the text in front of the task; "" leaves only the task.
    """
    options = check_options(options, DEFAULTS, "format_options of navigation")
    _check_values(options)
    layout = LAYOUTS[options["layout"]]
    choices = [options["annotations"]] if options["annotations"] else layout.ANNOTATIONS
    for episode in layout.read(raw, find_annotations(raw, choices), options["language"]):
        yield from _rows(episode, options)


def _rows(episode: Episode, options: dict[str, Any]) -> list[Row]:
    """The rows of an episode, in the order of its source."""
    rows = []
    done: list[Step] = []
    for step in sorted(
        episode.steps, key=lambda step: (step.number, step.file, step.index, step.part)
    ):
        past = done[-options["history"] :] if options["history"] else []
        rows.append(_row(episode, step, past, options))
        if step.image and step.actions:
            done.append(step)
    return sorted(rows, key=lambda row: (row.file, row.index, row.part))


def _row(episode: Episode, step: Step, past: Sequence[Step], options: dict[str, Any]) -> Row:
    row = Row(
        file=step.file, index=step.index, part=step.part, block=step.block, group=episode.name
    )
    try:
        if step.rejection:
            raise step.rejection
        _check_task(step.task)
        row.messages, media = conversation(
            step,
            past,
            episode.space,
            **{key: options[key] for key in ("interleaving", "answer", "decimals", "prompt")},
        )
    except Rejection as rejection:
        row.rejection = rejection
        return row
    row.media = [replace(medium) for medium in media]  # each row's own, for the audit fills them in
    row.clipped = step.clipped
    row.meta = {
        **step.meta,
        "episode": episode.name,
        "step": step.number,
        "history": [earlier.number for earlier in past],
        "actions": [action.to_json() for action in step.actions],
    }
    return row


def _check_task(task: Any) -> None:
    if not isinstance(task, str):
        raise Rejection("bad_instruction", f"the task is a {type(task).__name__}, not text")
    if not task.strip():
        raise Rejection("empty_instruction", "the task has no text")


def _check_values(options: dict[str, Any]) -> None:
    for key, choices in CHOICES.items():
        if options[key] not in choices:
            raise ConfigError(
                f"format_options of navigation: {key} is {brief(options[key])}, none of "
                + ", ".join(choices)
            )
    for key, limit in LIMITS.items():
        value = options[key]
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= limit:
            raise ConfigError(
                f"format_options of navigation: {key} is {brief(value)}, not 0 to {limit}"
            )
    if not isinstance(options["prompt"], str | None):
        raise ConfigError(
            f"format_options of navigation: prompt is {brief(options['prompt'])}, not text"
        )
