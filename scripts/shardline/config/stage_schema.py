"""What a user may write under ``stages``: data, batch, packing, tuning and optimiser of a stage."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator

from shardline.arrangement import packing_of
from shardline.config.checkpoint_schema import ContinueFrom, ExportFrom, Validate
from shardline.config.strict import Name, Strict
from shardline.config.token_schema import Tokens
from shardline.errors import ConfigError
from shardline.training.optimizers import OPTIMIZERS, complete_options


def _as_section(value: Any) -> Any:
    """`dedup` is short for `dedup: {}`."""
    return {value: {}} if isinstance(value, str) else value


def _one_filter(value: dict[str, Any]) -> dict[str, Any]:
    if len(value) != 1:
        raise ValueError("give one filter an entry: `- name` or `- name: {options}`")
    return value


FilterEntry = Annotated[
    dict[Name, dict[str, Any]], BeforeValidator(_as_section), AfterValidator(_one_filter)
]


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


class Optimizer(Strict):
    """The optimiser; learning rates and weight decays stand in `tune`."""

    name: Literal[tuple(OPTIMIZERS)] = Field(
        default="adamw", description="8bit and lion: of bitsandbytes; paged: needs a GPU"
    )
    betas: tuple[float, float] | None = Field(
        default=None, description="adamw (default 0.9, 0.999) and lion (0.9, 0.99)"
    )
    eps: float | None = Field(default=None, gt=0, description="adamw (default 1e-8)")
    momentum: float | None = Field(default=None, ge=0, lt=1, description="sgd (default 0)")
    clip: float | None = Field(default=1.0, gt=0, description="largest gradient norm, null: any")

    @property
    def options(self) -> dict[str, Any]:
        """Name, clipping, and what this optimiser reads, its defaults included."""
        given = self.model_dump(mode="json", exclude={"name", "clip"})
        return {"name": self.name, "clip": self.clip, **complete_options(self.name, given)}

    @model_validator(mode="after")
    def _reads_what_is_given(self) -> Optimizer:
        try:
            complete_options(self.name, self.model_dump(exclude={"name", "clip"}))
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return self


class Schedule(Strict):
    """The learning rate over the steps."""

    name: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = Field(default=0.03, ge=0, description="below 1: share of the steps; else steps")


class TokenMerging(Strict):
    """The vision tower joins like patches in every layer, as AuroraCap's does."""

    ratio: float = Field(
        gt=0,
        le=1,
        description="share of the patches to keep; what is kept is somewhat more: 109 of 729 at "
        "0.1 in 32 layers",
    )
    slowfast: bool = Field(default=False, description="keep all of the first frame of a video")


ADAPTER = "adapter+"
FOREIGN = ("hub://", "folder:", f"{ADAPTER}hub://", f"{ADAPTER}folder:")
"""How an ``init`` begins that is neither the base nor a stage."""


class Stage(Strict):
    """One training stage of a recipe; train, filters and tokens override the recipe's."""

    # `validate` is also an old method of pydantic's models, so that no field can have this name.
    model_config = ConfigDict(serialize_by_alias=True)

    name: Name
    method: Literal["sft"] = "sft"
    init: str = Field(
        default="base",
        description="base, an earlier stage, a model (hub://… or folder:…), or a LoRA adapter to "
        "merge into the base first (adapter+hub://… or adapter+folder:…)",
    )
    continue_from: ContinueFrom | None = Field(
        default=None,
        description="extend the run of an earlier stage: its init, tune, optimizer and precision, "
        "from one of its checkpoints on, with the state of its optimiser",
    )
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
    token_merging: TokenMerging | None = Field(
        default=None, description="LLaVA alone: fewer visual tokens; default: every patch is one"
    )
    precision: Literal["bf16", "fp32"] = "bf16"
    quantise: Literal["nf4"] | None = Field(
        default=None,
        description="hold the language model's linear layers, which must not be `full`, in 4 bits "
        "(QLoRA); exports have the base as it was",
    )
    optimizer: Optimizer = Field(default_factory=Optimizer)
    schedule: Schedule = Field(default_factory=Schedule)
    train: list[str] | None = None
    filters: list[FilterEntry] | None = None
    tokens: Tokens | None = None
    validation: Validate | None = Field(default=None, alias="validate")
    export_from: ExportFrom = Field(
        default="last",
        description="last, best (by the loss of `validate`) or step:600: the weights to export",
    )
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
        try:
            packing_of(self.model_dump(include={"packing", "global_batch", "max_length"}))
        except ConfigError as error:
            raise ValueError(str(error)) from None
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

    @model_validator(mode="after")
    def _best_needs_validation(self) -> Stage:
        if self.export_from == "best" and not self.validation:
            raise ValueError(
                "`export_from: best` is chosen by `validate`, which this stage does not have"
            )
        return self
