"""What a user may write under ``datasets`` and ``recipes``, checked strictly.

The JSON schemas in ``config/schemas`` for editors come from these models. Only the Snakefile and
the `shardline` command import this module: programs get their slice of config as plain data.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from shardline.config.checkpoint_schema import take_over
from shardline.config.stage_schema import FilterEntry, Stage
from shardline.config.strict import Name, Strict
from shardline.config.token_schema import Tokens

HUB = r"hub://[\w.-]+/[\w.-]+@[\w./-]+"
DATASET_SOURCE = rf"^({HUB}|folder:.+|https?://\S+|generate:[a-z_]+)$"
MODEL_SOURCE = rf"^({HUB}|folder:.+|init:.+\.json)$"
RawFrame = Literal["pixel_xywh", "pixel_xyxy", "unit_xywh", "unit_xyxy", "per_mille_xyxy"]


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
    frame: RawFrame | None = Field(
        default=None, description="in what the raw boxes are measured; never guessed"
    )
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
    stages: Annotated[list[Stage], BeforeValidator(take_over)] = Field(min_length=1)
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
