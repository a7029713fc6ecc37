"""Android in the Wild as SeeClick repacks it: ``aitw_data_*.json``.

A file is ``{subset: [episode, ...]}``, an episode a list of steps, a step has ``ep_id``, ``goal``,
``img_filename`` without ending, ``action_type_id``, ``action_type_text``, ``touch`` and ``lift`` as
fractions ``[x, y]`` of the screenshot, and ``type_text``. The action is the ``action_type_text`` in
capitals; a click is where the mean of touch and lift is.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shardline.annotations import folders_near, is_text, read_annotation
from shardline.episodes.steps import Action, Episode, Screens, Space, Step, point, text_of
from shardline.errors import DataError
from shardline.records import first_of
from shardline.rows import Rejection, brief

ANNOTATIONS = ("aitw_data_*.json", "*/aitw_data_*.json")
SPACE = Space(
    screen="smartphone",
    actions={
        "CLICK": "the position",
        "TYPE": "the text to type as value",
        "SCROLL UP": "nothing else",
        "SCROLL DOWN": "nothing else",
        "SCROLL LEFT": "nothing else",
        "SCROLL RIGHT": "nothing else",
        "PRESS BACK": "nothing else",
        "PRESS HOME": "nothing else",
        "PRESS ENTER": "nothing else",
        "STATUS TASK COMPLETE": "nothing else",
        "STATUS TASK IMPOSSIBLE": "nothing else",
    },
)
TYPING, TOUCHING = 3, 4  # of action_type_id
ENDINGS = (".png", "", ".jpg")


def read(raw: Path, files: list[str], language: str) -> Iterator[Episode]:
    """Yield the episodes of all files and subsets; what is none is one rejected step."""
    for file in files:
        screens = Screens(
            raw, folders_near(file, ("images", "aitw_images", "aitw_imgs", "")), ENDINGS
        )
        for index, (name, subset, steps) in enumerate(_episodes(raw, file)):
            episode = _episode(file, index, name, steps, screens)
            for step in episode.steps:
                step.meta = {**step.meta, "subset": subset} if subset else step.meta
            yield episode


def _episodes(raw: Path, file: str) -> Iterator[tuple[str, str, Any]]:
    """Name, subset and steps of each episode of a file."""
    content = read_annotation(raw, file)
    if isinstance(content, list):
        content = {"": content}
    if not isinstance(content, dict):
        raise DataError(f"{raw / file}: holds neither subsets nor a list of episodes")
    for subset, episodes in content.items():
        if not is_text(subset) or not isinstance(episodes, list):
            yield file, "", Rejection("bad_row", f"the subset {brief(subset)} is no list")
            continue
        for number, steps in enumerate(episodes):
            yield f"{file}#{subset}/{number}", subset, steps


def _episode(file: str, index: int, name: str, steps: Any, screens: Screens) -> Episode:
    episode = Episode(name=name, space=SPACE)
    if not isinstance(steps, list) or not steps:
        rejection = Rejection("bad_row", f"episode {name} is {brief(steps)}, not a filled list")
        if isinstance(steps, Rejection):
            rejection = steps
        episode.steps = [Step(file=file, index=index, number=0, rejection=rejection)]
        return episode
    if isinstance(steps[0], dict) and isinstance(steps[0].get("ep_id"), str | int):
        episode.name = str(steps[0]["ep_id"]) if is_text(steps[0]["ep_id"]) else name
    for part, content in enumerate(steps):
        step = Step(file=file, index=index, part=part, number=part)
        try:
            _fill(step, content, screens)
        except Rejection as rejection:
            step.rejection = rejection
        episode.steps.append(step)
    return episode


def _fill(step: Step, content: Any, screens: Screens) -> None:
    if not isinstance(content, dict):
        raise Rejection("bad_row", f"a {type(content).__name__}, not an object")
    if not is_text(content):
        raise Rejection("bad_text", "half a surrogate pair, which is no character")
    step.task = content.get("goal")
    kind = content.get("action_type_id")
    name = text_of(content.get("action_type_text"), "action_type_text").upper()
    if name not in SPACE.actions:
        raise Rejection("bad_action", f"{brief(name)} is none of {', '.join(SPACE.actions)}")
    value = position = None
    if kind == TOUCHING and name == "CLICK":
        touch, lift = point(content.get("touch")), point(content.get("lift"))
        position = [(a + b) / 2 for a, b in zip(touch, lift, strict=True)]
    elif name == "CLICK":
        raise Rejection("bad_action", f"a click with the action_type_id {brief(kind)}")
    elif kind == TYPING:
        value = text_of(content.get("type_text"), "type_text")
    step.image = screens.find(first_of(content, ("img_filename", "img_url")))
    step.actions = [Action(name=name, value=value, position=position)]
