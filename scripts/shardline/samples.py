"""The canonical sample: what every converter writes and every later stage reads.

A sample is plain JSON with every field always there, so that the first row never decides the
schema of the rest::

    {"id": "showui_desktop:metadata/hf_train.json#12", "dataset": "showui_desktop",
     "media": [{"kind": "image", "path": "images/a.png", "width": 1280, "height": 720,
                "bytes": 81234, "sha256": "..."}],
     "messages": [],
     "boxes": [{"label": "Save", "xyxy": [0.1, 0.2, 0.3, 0.4], "kind": "icon"}],
     "points": [{"label": "Save", "xy": [0.2, 0.3]}],
     "frame": "unit", "group": "", "meta": {}}

``media[].path`` is relative to ``raw/<dataset>/``; ``frame`` says in what the boxes and points of
this sample are measured and is declared by the converter, never guessed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Frame = Literal["pixel", "unit", "per_mille"]
PARTS = ("media", "boxes", "points")  # fields that are lists of objects


@dataclass(kw_only=True)
class Medium:
    """One image or video; ``width`` and ``height`` in pixels, upright; ``bytes`` of its file.

    What else is known of it is in the sample's ``meta["media"]``, a dictionary a medium in their
    order, where there is anything: of a video ``frames``, ``fps``, ``duration`` (seconds), maybe
    ``rotation`` (degrees clockwise) and ``pixel_aspect``; of an animation ``frames``.
    """

    kind: Literal["image", "video"]
    path: str
    width: int = 0
    height: int = 0
    bytes: int = 0
    sha256: str = ""


@dataclass(kw_only=True)
class Box:
    """A labelled rectangle: ``xyxy`` = left, top, right, bottom in the sample's frame."""

    label: str
    xyxy: list[float]
    kind: str = ""


@dataclass(kw_only=True)
class Point:
    """A labelled point: ``xy`` in the sample's frame."""

    label: str
    xy: list[float]


@dataclass(kw_only=True)
class Sample:
    """One canonical sample; see the module's docstring."""

    id: str
    dataset: str
    media: list[Medium] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    frame: Frame = "unit"
    group: str = ""
    meta: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The sample as plain JSON data, which shares all lists and dictionaries with it."""
        parts = {name: [vars(part) for part in getattr(self, name)] for name in PARTS}
        return {**vars(self), **parts}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Sample:
        """The inverse of `to_json`."""
        fields = dict(data)
        fields["media"] = [Medium(**medium) for medium in data["media"]]
        fields["boxes"] = [Box(**box) for box in data["boxes"]]
        fields["points"] = [Point(**point) for point in data["points"]]
        return cls(**fields)


class Samples(Protocol):
    """Samples that may be gone through again and again, and need not all be in memory."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Sample]: ...


def texts(sample: Sample, *roles: str) -> list[str]:
    """The text of each message of these roles, its parts put together, in order."""
    return [
        "".join(part["text"] for part in message["content"] if part["type"] == "text")
        for message in sample.messages
        if message["role"] in roles
    ]


def frame_scale(frame: Frame, width: int, height: int) -> tuple[float, float]:
    """What one unit of ``frame`` is in pixels, along x and along y."""
    if frame == "pixel":
        return 1.0, 1.0
    if frame == "unit":
        return float(width), float(height)
    return width / 1000, height / 1000


def to_unit(values: list[float], frame: Frame, width: int, height: int) -> list[float]:
    """Alternating x, y values of ``frame`` as fractions of the image's width and height."""
    scale_x, scale_y = frame_scale(frame, width, height)
    sizes = (scale_x / width, scale_y / height)
    return [value * sizes[index % 2] for index, value in enumerate(values)]
