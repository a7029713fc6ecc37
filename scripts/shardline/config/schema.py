"""What a user may write under ``datasets`` and ``recipes``, checked strictly.

The JSON schemas in ``config/schemas`` for editors come from these models. Only the Snakefile and
the `shardline` command import this module: programs get their slice of config as plain data.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

NAME = r"^[A-Za-z][A-Za-z0-9_]*$"
HUB = r"hub://[\w.-]+/[\w.-]+@[\w./-]+"
TOKEN_PIXELS = 28 * 28
PICTURE_PIXELS = 178_956_970  # Pillow opens no picture of more
DATASET_SOURCE = rf"^({HUB}|folder:.+|https?://\S+|generate:[a-z_]+)$"
MODEL_SOURCE = rf"^({HUB}|folder:.+|init:.+\.json)$"


def _as_section(value: Any) -> Any:
    """`dedup` is short for `dedup: {}`."""
    return {value: {}} if isinstance(value, str) else value


def _one_filter(value: dict[str, Any]) -> dict[str, Any]:
    if len(value) != 1:
        raise ValueError("give one filter an entry: `- name` or `- name: {options}`")
    return value


Name = Annotated[str, Field(pattern=NAME)]
RawFrame = Literal["pixel_xywh", "pixel_xyxy", "unit_xywh", "unit_xyxy", "per_mille_xyxy"]
FilterEntry = Annotated[
    dict[Name, dict[str, Any]], BeforeValidator(_as_section), AfterValidator(_one_filter)
]


class Strict(BaseModel):
    """A section of config: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", validate_default=True)


class Dataset(Strict):
    """One entry of the dataset registry. A benchmark is an entry with a `metric`."""

    source: str = Field(
        pattern=DATASET_SOURCE,
        description="hub://owner/name@commit, folder:/path, https://host/file or "
        "generate:<generator>",
    )
    source_options: dict[str, Any] = Field(
        default_factory=dict,
        description="allow, split, data_files: files of a hub snapshot; sha256: of an https file; "
        "extract: patterns of archives; or the options of a generator",
    )
    format: Name = Field(description="a module of shardline/formats")
    format_options: dict[str, Any] = Field(default_factory=dict)
    frame: (
        Literal["pixel_xywh", "pixel_xyxy", "unit_xywh", "unit_xyxy", "per_mille_xyxy"] | None
    ) = Field(default=None, description="in what the raw boxes are measured; never guessed")
    licence: str = Field(min_length=1, description="SPDX id in lower case, or 'proprietary'")
    metric: Name | None = Field(default=None, description="a module of shardline/metrics")
    max_reject_share: float = Field(
        default=0.01, ge=0, le=1, description="share of rows the audit may reject before it fails"
    )
    max_pixels: int = Field(default=100_000_000, gt=0, description="pixel limit of one image")
    shard_rows: int = Field(default=10_000, gt=0, description="source rows a shard, at most")
    shard_bytes: int = Field(
        default=512_000_000, gt=0, description="bytes of media an image shard, at most"
    )


class Lora(Strict):
    """Low-rank adapters on the linear layers of a module."""

    rank: int = Field(gt=0)
    alpha: float = Field(gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: list[str] | None = Field(
        default=None, description="layer names, e.g. [q_proj, v_proj]; default: every linear layer"
    )


class ModuleTuning(Strict):
    """How one module learns: `lora: {...}` or `full: true`, at its own learning rate."""

    lr: float = Field(gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    lora: Lora | None = None
    full: bool = False

    @model_validator(mode="after")
    def _one_way(self) -> ModuleTuning:
        if (self.lora is not None) == self.full:
            raise ValueError("give either `lora: {rank, alpha}` or `full: true`")
        return self


def _unfrozen(value: Any) -> Any:
    if value == "frozen":
        return None
    if value is not None and not isinstance(value, dict | ModuleTuning):
        raise ValueError("give `frozen`, or a section with lr and either `lora` or `full: true`")
    return value


Module = Annotated[ModuleTuning | None, BeforeValidator(_unfrozen)]


class Tune(Strict):
    """Which modules learn; a module that is not named is `frozen`."""

    llm: Module = None
    projector: Module = None
    vision: Module = None

    @model_validator(mode="after")
    def _something_learns(self) -> Tune:
        if not (self.llm or self.projector or self.vision):
            raise ValueError("all modules are frozen: nothing would learn")
        return self


class GlobalBatch(Strict):
    """The size of one optimiser step, whatever the hardware: samples, or tokens."""

    samples: int | None = Field(
        default=None, gt=0, description="samples a step: drawn first, then packed"
    )
    tokens: int | None = Field(
        default=None,
        gt=0,
        description="tokens a step: tokens / max_length packs, made over all samples of an epoch",
    )
    reference_samples: int | None = Field(
        default=None,
        gt=0,
        description="samples an update of the set-up that the learning rate comes from: the "
        "estimate and the report then say what the rate would be here; nothing is rerun for it",
    )

    @model_validator(mode="after")
    def _one_unit(self) -> GlobalBatch:
        if (self.samples is None) == (self.tokens is None):
            raise ValueError(
                "give either `samples` or `tokens`; null takes back the one that is inherited"
            )
        return self


class Split(Strict):
    """What is held out of every training dataset of a recipe, for validation."""

    validation: str = Field(
        pattern=r"^\d+(\.\d+)?%$", description="share of the groups, such as 10%"
    )
    by: Literal["group", "sample"] = Field(
        default="group",
        description="what stays together: a sample's group (or else its first image), or nothing",
    )

    @property
    def percent(self) -> float:
        """The share as a number."""
        return float(self.validation.removesuffix("%"))

    @model_validator(mode="after")
    def _leaves_something(self) -> Split:
        if not 0 < self.percent < 100:
            raise ValueError(f"validation = {self.validation!r}; allowed: above 0%, below 100%")
        return self


class Optimizer(Strict):
    """The optimiser; learning rates and weight decays stand in `tune`."""

    name: Literal["adamw"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)
    clip: float | None = Field(default=1.0, gt=0, description="largest gradient norm, null: any")


class Schedule(Strict):
    """The learning rate over the steps."""

    name: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = Field(default=0.03, ge=0, description="below 1: share of the steps; else steps")


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


class Stage(Strict):
    """One training stage of a recipe; train, filters and tokens override the recipe's."""

    name: Name
    method: Literal["sft"] = "sft"
    init: str = Field(default="base", description="base, an earlier stage, hub://… or folder:…")
    tune: Tune
    global_batch: GlobalBatch
    steps: int | None = Field(default=None, gt=0)
    epochs: float | None = Field(default=None, gt=0)
    epoch_draws: int | None = Field(
        default=None,
        gt=0,
        description="an epoch is so many draws, each of any sample whatever was drawn before; "
        "default: every sample once",
    )
    max_length: int = Field(default=4096, gt=0, description="tokens a pack")
    max_patches: int | None = Field(
        default=None, gt=0, description="patches of the vision tower a pack; default: any number"
    )
    packing: Literal["step", "flatten", "none", "global", "given"] | None = Field(
        default=None,
        description="of `samples`: step (the default): pack each step's samples; flatten: one "
        "sample a pack, a forward's packs side by side; none: the same, but padded to the longest. "
        "Of `tokens`: global (the default): pack an epoch; given: the packs of the source",
    )
    length_grouped: bool = Field(
        default=False, description="flatten and none: samples of a step from long to short"
    )
    fixed_shape: bool = Field(
        default=False, description="fill every forward up to max_length tokens a pack"
    )
    too_long: Literal["reject", "truncate_answer"] = Field(
        default="reject",
        description="a sample over max_length is left out, or its last answer cut",
    )
    max_reject_share: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="share of a dataset's samples that may be unusable (not: too long) before the "
        "plan fails",
    )
    cache_features: bool = Field(
        default=False,
        description="compute the outputs of the vision tower once and train without it; it must "
        "be frozen, and `tokens` without `crop`",
    )
    precision: Literal["bf16", "fp32"] = "bf16"
    optimizer: Optimizer = Field(default_factory=Optimizer)
    schedule: Schedule = Field(default_factory=Schedule)
    train: list[str] | None = None
    filters: list[FilterEntry] | None = None
    tokens: Tokens | None = None
    exports: list[Literal["adapter", "merged"]] | None = None

    @model_validator(mode="after")
    def _steps_or_epochs(self) -> Stage:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either `steps` or `epochs`")
        if self.epoch_draws and self.epochs is None:
            raise ValueError("`epoch_draws` goes with `epochs`, not with `steps`")
        return self

    @model_validator(mode="after")
    def _packs_as_it_draws(self) -> Stage:
        unit = "samples" if self.global_batch.samples else "tokens"
        allowed = {"samples": ("step", "flatten", "none"), "tokens": ("global", "given")}[unit]
        if self.packing and self.packing not in allowed:
            raise ValueError(
                f"packing = {self.packing!r} with a global_batch of {unit}; "
                f"allowed: {', '.join(allowed)}"
            )
        if unit == "tokens" and self.global_batch.tokens < self.max_length:
            raise ValueError(
                f"global_batch.tokens = {self.global_batch.tokens}; allowed: at least max_length "
                f"= {self.max_length}, since a step has whole packs"
            )
        if self.length_grouped and self.packing not in ("flatten", "none"):
            raise ValueError("`length_grouped` is for `packing: flatten` and `packing: none`")
        if self.epoch_draws and self.packing == "given":
            raise ValueError("`epoch_draws` draws samples, `packing: given` keeps them in packs")
        return self

    @property
    def is_lora(self) -> bool:
        """Whether any module learns through adapters."""
        modules = (self.tune.llm, self.tune.projector, self.tune.vision)
        return any(module and module.lora for module in modules)

    @model_validator(mode="after")
    def _adapter_needs_lora(self) -> Stage:
        if self.exports and "adapter" in self.exports and not self.is_lora:
            raise ValueError(f"stage {self.name} has no LoRA module: there is no adapter to export")
        return self


class Recipe(Strict):
    """One recipe: data, tokens, training stages, exports and benchmarks."""

    description: str = ""
    family: Name = Field(description="a module of shardline/families")
    base: str = Field(pattern=MODEL_SOURCE, description="hub://…@revision, folder:… or init:….json")
    base_pickles: bool = Field(
        default=False, description="take a base model whose weights are pickles, not safetensors"
    )
    base_licence: str = Field(default="unknown", description="SPDX id of the base model's licence")
    seed: int = Field(default=0, ge=0)
    env_epoch: int = Field(default=0, ge=0, description="raise it to rerun after a version change")
    train: list[str] = Field(
        min_length=1,
        description="dataset names; `name%50` for a seeded half, above 100 repeats; `name#1000` "
        "for exactly so many samples",
    )
    split: Split | None = Field(
        default=None, description="what no stage trains on, held out for validation"
    )
    filters: list[FilterEntry] = Field(default_factory=list)
    tokens: Tokens = Field(default_factory=Tokens)
    stages: list[Stage] = Field(min_length=1)
    exports: list[Literal["adapter", "merged"]] = Field(default_factory=lambda: ["merged"])
    evaluate: list[Name] = Field(default_factory=list)
    max_new_tokens: int = Field(default=64, gt=0, description="answer limit at evaluation")


class MLflow(Strict):
    """Where runs are tracked; MLFLOW_TRACKING_URI in the environment wins."""

    uri: str = "sqlite:///results/mlflow.db"
    experiment: str = "shardline"


class Config(Strict):
    """The whole config; `datasets` and `recipes` are validated entry by entry."""

    build: list[Name] = Field(default_factory=lambda: ["demo"], min_length=1)
    plugins: list[str] = Field(default_factory=list)
    mlflow: MLflow = Field(default_factory=MLflow)
    raw_dir: str | None = Field(
        default=None,
        description="a folder like another project's results/raw, which may be read-only: what it "
        "has locked is linked, not fetched again",
    )
    datasets: dict[Name, Dataset]
    recipes: dict[Name, Recipe]
