"""UI grounding as ShowUI trains it: a screenshot, a description of an element, where it is.

By default the answer is the text of a Python list of two fractions of the image's width and height,
such as ``[0.65, 0.37]``: rounded, not padded with zeros; `coordinates` has the other ways. All
elements of a screen are turns of one conversation, the image is in the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shardline import coordinates
from shardline.errors import SampleError
from shardline.files import sha256_bytes
from shardline.samples import Sample, to_unit

PROMPT = (
    "Based on the screenshot of the page, I give a text description and you give its corresponding "
    "location. The coordinate represents {target} for an element, which is {frame}."
)
TARGETS = {
    "point": "a clickable location [x, y]",
    "box": "a bounding box [left, top, right, bottom]",
}
FRAMES = {
    "unit": "a relative coordinate on the screenshot, scaled from 0 to 1",
    "per_mille": "a relative coordinate on the screenshot, scaled from 0 to 1000",
    "pixel": "in pixels of the screenshot",
}

FOLLOWS_BOXES = True  # so that a crop of the image changes the answers with it

Sizes = Sequence[tuple[int, int]]
"""Width and height in pixels of each picture as the model sees it."""


def conversation(
    sample: Sample, options: Mapping[str, Any], seen: Sizes = ()
) -> list[dict[str, Any]]:
    """All boxes of a sample as question and answer turns.

    Args:
        options: ``prompt``: replaces `PROMPT`; "" leaves only image and description; of several the
            sample takes one by a hash of its id and ``seed``. ``answer``: see `coordinates`.

    Raises:
        SampleError: as `answer`.
    """
    prompts = _prompts(options)
    lot = sha256_bytes(f"prompt\n{options.get('seed', 0)}\n{sample.dataset}\n{sample.id}".encode())
    prompt = prompts[int(lot, 16) % len(prompts)]
    kind = "box" if _answer_options(options)["style"] == "tags" else "text"
    messages: list[dict[str, Any]] = []
    for index in range(len(sample.boxes)):
        messages.append(_ask(sample, index, "" if index else prompt, first=index == 0))
        text = answer(sample, index, options, seen)
        messages.append({"role": "assistant", "content": [{"type": kind, "text": text}]})
    return messages


def question(
    sample: Sample, index: int, options: Mapping[str, Any], seen: Sizes = ()
) -> list[dict[str, Any]]:
    """One box of a sample as a question with the image, for a model to answer.

    Of several prompts it is the first.
    """
    return [_ask(sample, index, _prompts(options)[0], first=True)]


def answer(sample: Sample, index: int, options: Mapping[str, Any], seen: Sizes = ()) -> str:
    """The answer for one box: itself, or its point, which is its centre where there is no other.

    Raises:
        SampleError: ``no_image``; ``point_outside`` or ``box_outside`` it.
    """
    how = _answer_options(options)
    kind = how["target"]
    values = target(sample, index) if kind == "point" else _unit(sample, sample.boxes[index].xyxy)
    if not all(0 <= value <= 1 for value in values):
        raise SampleError(f"{kind}_outside", f"{values} of box {index} lies outside the image")
    return coordinates.write(values, sample.boxes[index].label, how, seen)


def target(sample: Sample, index: int) -> list[float]:
    """The point of a box, in fractions of the image's width and height."""
    values = sample.boxes[index].xyxy
    if len(sample.points) == len(sample.boxes):
        return _unit(sample, sample.points[index].xy)
    return _unit(sample, [(values[0] + values[2]) / 2, (values[1] + values[3]) / 2])


def parse(text: str, options: Mapping[str, Any], seen: Sizes = ()) -> list[float] | None:
    """The point in an answer, as fractions, or None where there is none; see `coordinates.read`."""
    return coordinates.read(text, _answer_options(options), seen)


def parse_values(text: str, options: Mapping[str, Any], seen: Sizes = ()) -> list[float] | None:
    """The point or the box in an answer, as fractions, or None; see `coordinates.read_values`."""
    return coordinates.read_values(text, _answer_options(options), seen)


def _answer_options(options: Mapping[str, Any]) -> dict[str, Any]:
    return {**coordinates.DEFAULTS, **(options.get("answer") or {})}


def _prompts(options: Mapping[str, Any]) -> list[str]:
    prompt = options.get("prompt")
    if prompt is None:
        how = _answer_options(options)
        return [PROMPT.format(target=TARGETS[how["target"]], frame=FRAMES[how["frame"]])]
    return [prompt] if isinstance(prompt, str) else prompt


def _unit(sample: Sample, values: list[float]) -> list[float]:
    if not sample.media:
        raise SampleError("no_image", "has boxes but no image")
    return to_unit(values, sample.frame, sample.media[0].width, sample.media[0].height)


def _ask(sample: Sample, index: int, prompt: str, first: bool) -> dict[str, Any]:
    content = [{"type": "text", "text": prompt}] if prompt else []
    if first:
        content.append({"type": "image"})
    return {
        "role": "user",
        "content": [*content, {"type": "text", "text": sample.boxes[index].label}],
    }
