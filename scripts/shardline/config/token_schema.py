"""What a user may write under ``tokens``: what a sample becomes for the model."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator

from shardline.config.strict import Name, Strict

TOKEN_PIXELS = 28 * 28
PICTURE_PIXELS = 178_956_970  # Pillow opens no picture of more


class Answer(Strict):
    """How coordinates are written in an answer."""

    target: Literal["point", "box"] = "point"
    frame: Literal["unit", "per_mille", "pixel"] = Field(
        default="unit", description="fractions, thousandths, or pixels of the resized image"
    )
    style: Literal["list", "tags", "json", "click"] = Field(
        default="list", description="see shardline/coordinates.py"
    )
    decimals: int = Field(default=2, ge=1, le=4, description="decimals of a 0-1 coordinate")

    @model_validator(mode="after")
    def _click_a_point(self) -> Answer:
        if self.style == "click" and self.target == "box":
            raise ValueError("style: click names a point; give `target: point`, or another style")
        return self


class Crop(Strict):
    """How much of a screenshot a crop shows: the range of a scale drawn for each side."""

    min: float = Field(default=0.5, gt=0, le=4)
    max: float = Field(default=1.5, gt=0, le=4, description="above 1: white around the image")

    @model_validator(mode="after")
    def _ordered(self) -> Crop:
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) is above max ({self.max})")
        return self


def _pixels_as_tokens(section: Any) -> Any:
    """`max_pixels` is another way to write `max_visual_tokens`; both give the same samples."""
    if not isinstance(section, dict):
        return section
    section = dict(section)
    for end in ("min", "max"):
        pixels, tokens = f"{end}_pixels", f"{end}_visual_tokens"
        if (value := section.pop(pixels, None)) is None:
            continue
        if tokens in section:
            raise ValueError(
                f"give either `{pixels}` or `{tokens}`, also where a recipe extends another"
            )
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{pixels} = {value!r}; allowed: a multiple of {TOKEN_PIXELS}")
        if value % TOKEN_PIXELS:
            near = max(1, round(value / TOKEN_PIXELS)) * TOKEN_PIXELS
            raise ValueError(
                f"{pixels} = {value}: a visual token is 28 x 28 pixels; allowed: a multiple of "
                f"{TOKEN_PIXELS}, such as {near}"
            )
        section[tokens] = value // TOKEN_PIXELS
    return section


def _spellings(*pairs: tuple[str, str, str]) -> Any:
    """Other ways to write a key, for the JSON schema that editors read."""

    def add(schema: dict[str, Any]) -> None:
        for name, kind, description in pairs:
            schema["properties"][name] = {"type": kind, "description": description}

    return add


PIXELS = (
    ("min_pixels", "integer", "another way to write `min_visual_tokens`: 784 pixels each"),
    ("max_pixels", "integer", "another way to write `max_visual_tokens`: 784 pixels each"),
)


class VisualLimits(Strict):
    """Between how many visual tokens, of 28 x 28 pixels each, a picture is resized to."""

    model_config = ConfigDict(json_schema_extra=_spellings(*PIXELS))

    min_visual_tokens: int = Field(gt=0)
    max_visual_tokens: int = Field(gt=0)

    @model_validator(mode="before")
    @classmethod
    def _in_tokens(cls, section: Any) -> Any:
        return _pixels_as_tokens(section)

    @model_validator(mode="after")
    def _ordered(self) -> VisualLimits:
        if self.min_visual_tokens > self.max_visual_tokens:
            raise ValueError(
                f"min_visual_tokens ({self.min_visual_tokens}) is above max_visual_tokens "
                f"({self.max_visual_tokens})"
            )
        return self


class Video(VisualLimits):
    """Which frames of a video a model sees, and at what size; two frames share their tokens."""

    model_config = ConfigDict(
        json_schema_extra=_spellings(
            *PIXELS, ("fps", "number", "frames a second: another way to write `interval`")
        )
    )

    interval: float = Field(default=2.0, gt=0, description="seconds from frame to frame")
    min_frames: int = Field(default=4, gt=0)
    max_frames: int = Field(default=8, gt=0)
    min_visual_tokens: int = Field(default=128, gt=0, description="of a frame, as of an image")
    max_visual_tokens: int = Field(default=768, gt=0, description="of a frame, as of an image")

    @model_validator(mode="before")
    @classmethod
    def _fps_as_interval(cls, section: Any) -> Any:
        if not isinstance(section, dict) or "fps" not in section:
            return section
        section = dict(section)
        fps = section.pop("fps")
        if "interval" in section:
            raise ValueError("give either `interval` or `fps`")
        if isinstance(fps, bool) or not isinstance(fps, int | float) or not fps > 0:
            raise ValueError(f"fps = {fps!r}; allowed: a number above 0")
        return section | {"interval": 1 / fps}

    @model_validator(mode="after")
    def _frames(self) -> Video:
        if self.min_frames > self.max_frames:
            raise ValueError(
                f"min_frames ({self.min_frames}) is above max_frames ({self.max_frames})"
            )
        if self.max_frames * self.max_visual_tokens * TOKEN_PIXELS > PICTURE_PIXELS:
            raise ValueError(
                f"max_frames ({self.max_frames}) times max_visual_tokens "
                f"({self.max_visual_tokens}) is above {PICTURE_PIXELS // TOKEN_PIXELS}: the frames "
                "of a video are one picture in a shard, which readers would not open"
            )
        return self


class Tokens(VisualLimits):
    """What one sample becomes for the model."""

    task: Name = Field(default="grounding", description="a module of shardline/tasks")
    min_visual_tokens: int = Field(default=4, gt=0, description="fewest visual tokens of an image")
    max_visual_tokens: int = Field(default=1344, gt=0, description="most visual tokens of an image")
    video: Video = Field(default_factory=Video)
    image_side: int = Field(
        default=336,
        gt=0,
        multiple_of=14,
        description="LLaVA alone: side in pixels of the square that every picture becomes",
    )
    fit: Literal["pad", "crop"] = Field(
        default="pad", description="LLaVA alone: how a picture becomes a square"
    )
    loss: Literal["answers", "all"] = Field(
        default="answers", description="what is learned: answers, or prompts too"
    )
    prompt: str | list[str] | None = Field(
        default=None,
        description="replaces the task's own prompt; of a list each sample takes one by its id",
    )
    answer: Answer = Field(default_factory=Answer)
    crop: Crop | None = Field(
        default=None, description="crops of screenshots with their boxes, drawn by `seed`"
    )
    variants: int = Field(
        default=1, gt=0, description="how many samples each one becomes, each with its own crop"
    )
    seed: int = Field(default=0, ge=0, description="of crops and prompts")

    @model_validator(mode="after")
    def _differ(self) -> Tokens:
        if isinstance(self.prompt, list) and not self.prompt:
            raise ValueError("prompt is an empty list; give texts, or leave it out")
        several = isinstance(self.prompt, list) and len(self.prompt) > 1
        if self.variants > 1 and not self.crop and not several:
            raise ValueError(
                f"variants: {self.variants} would make equal samples; give `crop`, or several "
                "prompts"
            )
        return self
