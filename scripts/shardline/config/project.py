"""From a validated config to what each job is: its names, its options, what it depends on.

Each rule has one table, keyed by its wildcards; the value is the plain data its program gets as
``--options``. A table holds exactly what that program reads, so that a change reruns no other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

from shardline import folders, locks, paths
from shardline.config.cached_features import chain, features_point
from shardline.config.checkpoint_options import check_steps
from shardline.config.checkpoint_schema import HELD_OUT
from shardline.config.filter_chain import UsedScorer, check_filters
from shardline.config.modules import Modules
from shardline.config.report_options import report_options
from shardline.config.schema import Config, Recipe
from shardline.config.source_models import SourceModels
from shardline.config.stage_options import (
    check_stage_names,
    merging_options,
    mixture_entry,
    plan_options,
    train_options,
    validation_options,
)
from shardline.config.stage_schema import FOREIGN, Stage
from shardline.config.token_options import check_tokens
from shardline.config.token_schema import Tokens
from shardline.errors import ConfigError, DataError
from shardline.files import sha256_bytes, short_hash
from shardline.training.requirements import check_quantise

Options = dict[str, Any]
CLOSE = 3  # names that a message about an unknown one suggests


@dataclass(frozen=True)
class StageData:
    """Where the training data of one dataset in one stage lives, and what share is taken."""

    dataset: str
    share: dict[str, float]
    filtered: str
    tokens: str
    features: str | None = None


class Project:
    """All jobs of the recipes in ``build``.

    Raises:
        ConfigError: a name that does not exist, or settings that contradict each other.
    """

    def __init__(self, config: Config, root: Path) -> None:
        self.config = config
        self.root = root
        self.modules = Modules(config.plugins)
        self.source_models = SourceModels(self.modules, root)
        self.fetch: dict[tuple[str], Options] = {}
        self.convert: dict[tuple[str], Options] = {}
        self.scorers: dict[str, Options] = {}
        self.train_classifier: dict[tuple[str], Options] = {}
        self.labels_of: dict[str, str] = {}
        self.score_images: dict[tuple[str, str], Options] = {}
        self.decide: dict[tuple[str, str], Options] = {}
        self.tokenize: dict[tuple[str, str], Options] = {}
        self.filter_of: dict[tuple[str, str], str] = {}
        self.features: dict[tuple[str, str, str], Options] = {}
        self.plan: dict[tuple[str, str], Options] = {}
        self.plan_validation: dict[tuple[str, str], Options] = {}
        self.train: dict[tuple[str, str], Options] = {}
        self.merge: dict[tuple[str, str], Options] = {}
        self.adapter: dict[tuple[str, str], Options] = {}
        self.predict: dict[tuple[str, str, str], Options] = {}
        self.score: dict[tuple[str, str, str], Options] = {}
        self.report: dict[tuple[str], Options] = {}
        self.model_of: dict[tuple[str, str], str] = {}
        self.stage_data: dict[tuple[str, str], list[StageData]] = {}
        self.validation_data: dict[tuple[str, str], list[StageData]] = {}
        for name in config.build:
            if name not in config.recipes:
                allowed = ", ".join(sorted(config.recipes))
                raise ConfigError(f"build = {name!r}: no such recipe; allowed: {allowed}")
            self._add_recipe(name, config.recipes[name])

    def _add_recipe(self, name: str, recipe: Recipe) -> None:
        where = f"recipes.{name}"
        self.modules.check("families", recipe.family, f"{where}.family")
        check_stage_names(recipe, where)
        base = self.source_models.add_base(recipe, where)
        self.model_of[name, "base"] = base
        for benchmark in recipe.evaluate:
            dataset = self._add_dataset(benchmark, f"{where}.evaluate")
            if dataset.metric is None:
                raise ConfigError(
                    f"{where}.evaluate: {benchmark!r} is no benchmark: it has no `metric`"
                )
            self.modules.check("metrics", dataset.metric, f"datasets.{benchmark}.metric")
        for stage in recipe.stages:
            self._add_stage(name, recipe, stage, base, where)
        for model in self.models(name):
            for benchmark in recipe.evaluate:
                self._add_evaluation(name, recipe, model, benchmark)
        self.report[(name,)] = report_options(self, name, recipe, base)

    def _add_stage(self, name: str, recipe: Recipe, stage: Stage, base: str, where: str) -> None:
        where = f"{where}.stages.{stage.name}"
        check_steps(recipe, stage, where)
        tokens = stage.tokens or recipe.tokens
        check_tokens(recipe.family, tokens, f"{where}.tokens", self.modules)
        entries = stage.train or recipe.train
        mixture = [mixture_entry(entry, f"{where}.train") for entry in entries]
        names = [dataset for dataset, _ in mixture]
        if duplicates := sorted({dataset for dataset in names if names.count(dataset) > 1}):
            raise ConfigError(f"{where}.train: {', '.join(duplicates)} stands there twice")
        filters = self._filters(recipe.filters if stage.filters is None else stage.filters, where)
        data = []
        for position, (dataset, share) in enumerate(mixture):
            self._add_dataset(dataset, f"{where}.train")
            variant = self._add_filter(dataset, filters, names[:position], recipe.evaluate)
            data.append(
                StageData(
                    dataset,
                    share,
                    variant,
                    self._add_tokens(dataset, variant, recipe, tokens, base),
                )
            )
        key = (name, stage.name)
        if stage.init.startswith(FOREIGN):
            init = self.source_models.add_init(stage.init, recipe, base)
            self.model_of[name, f"init of {stage.name}"] = init
        merging = merging_options(self.modules, recipe.family, stage, where)
        features = {}
        if stage.cache_features:
            family = self.modules.load("families", recipe.family)
            point = features_point(recipe, stage, tokens, family, where)
            data = self._add_features(name, recipe, stage, point, data, merging)
            features = {"features": point}
        self.stage_data[key] = data
        of_family = {
            "family": recipe.family,
            "plugins": self.modules.plugins_of(families=[recipe.family]),
        }
        shares = [{"dataset": one.dataset, **one.share} for one in data]
        self.plan[key] = plan_options(name, recipe, stage, shares) | merging | of_family
        if stage.validation or recipe.split:
            self._add_validation(key, recipe, stage, base, data, where)
            if features and stage.validation:
                watched = self.validation_data[key]
                watched = self._add_features(name, recipe, stage, point, watched, merging)
                self.validation_data[key] = watched
        self.train[key] = train_options(name, recipe, stage) | features | merging | of_family
        if stage.quantise:
            check_quantise(stage.quantise, self.train[key]["tune"], f"{where}.")
        chosen = {} if stage.export_from == "last" else {"export_from": stage.export_from}
        limits = tokens.model_dump(include={"min_visual_tokens", "max_visual_tokens"})
        self.merge[key] = chosen | limits | merging | of_family
        if stage.is_lora:
            self.adapter[key] = chosen

    def _add_validation(
        self,
        key: tuple[str, str],
        recipe: Recipe,
        stage: Stage,
        base: str,
        data: list[StageData],
        where: str,
    ) -> None:
        """Plan what a recipe holds out of a stage's ``data``, or another dataset, unfiltered."""
        self.plan_validation[key] = validation_options(self.plan[key])
        self.validation_data[key] = data
        if not stage.validation or stage.validation.data == HELD_OUT:
            if not recipe.split:
                raise ConfigError(
                    f"{where}.validate.data = {HELD_OUT!r}: the recipe holds nothing out; give it "
                    "`split: {validation: 5%}`, or name a dataset here"
                )
            return
        where = f"{where}.validate.data"
        dataset, share = mixture_entry(stage.validation.data, where)
        for one in recipe.stages:
            entries = one.train or recipe.train
            if dataset in [mixture_entry(entry, f"{where}.train")[0] for entry in entries]:
                raise ConfigError(
                    f"{where} = {stage.validation.data!r}: the stage {one.name} trains on it; "
                    f"allowed: another dataset, or {HELD_OUT} with the recipe's `split`"
                )
        self._add_dataset(dataset, where)
        variant = self._add_filter(dataset, [], [], recipe.evaluate)
        tokens = self._add_tokens(dataset, variant, recipe, stage.tokens or recipe.tokens, base)
        self.plan_validation[key] |= {"mixture": [{"dataset": dataset, **share}], "split": None}
        self.validation_data[key] = [StageData(dataset, share, variant, tokens)]

    def _add_dataset(self, name: str, where: str):
        if name not in self.config.datasets:
            known = sorted(self.config.datasets)
            close = get_close_matches(name, known, CLOSE) or known[:CLOSE]
            raise ConfigError(
                f"{where}: no such dataset: {name!r}; allowed: the {len(known)} names under "
                f"`datasets`, such as {', '.join(close)}"
            )
        dataset = self.config.datasets[name]
        kind, _, rest = dataset.source.partition(":")
        self.modules.check("formats", dataset.format, f"datasets.{name}.format")
        if kind == "generate":
            self.modules.check("generators", rest, f"datasets.{name}.source")
        self.fetch[(name,)] = {
            "source": dataset.source,
            "source_options": dataset.source_options,
            "plugins": self.modules.plugins_of(generators=[rest] if kind == "generate" else []),
        }
        self.convert[(name,)] = {
            "format": dataset.format,
            "format_options": dataset.format_options,
            "frame": dataset.frame,
            "max_reject_share": dataset.max_reject_share,
            "max_pixels": dataset.max_pixels,
            "shard_rows": dataset.shard_rows,
            "plugins": self.modules.plugins_of(formats=[dataset.format]),
        }
        return dataset

    def _add_filter(
        self, dataset: str, filters: list[Options], earlier: list[str], benchmarks: list[str]
    ) -> str:
        context = {
            part
            for entry in filters
            for part in self.modules.load("filters", entry["name"]).CONTEXT
        }
        options = {
            "filters": filters,
            "earlier": earlier if "earlier" in context else [],
            "benchmarks": sorted(benchmarks) if "benchmarks" in context else [],
            "plugins": self.modules.plugins_of(filters=[entry["name"] for entry in filters]),
        }
        for entry in filters:
            if scores := entry.get("scores"):
                self.score_images[dataset, scores] = self.scorers[scores]
        words = [entry["name"] for entry in filters] or ["all"]
        variant = "-".join([*words, short_hash({**options, "plugins": []})])
        shard_bytes = self.config.datasets[dataset].shard_bytes
        self.decide[dataset, variant] = {**options, "shard_bytes": shard_bytes}
        return variant

    def _add_tokens(
        self, dataset: str, filtered: str, recipe: Recipe, tokens: Tokens, base: str
    ) -> str:
        options = {
            "family": recipe.family,
            "task": tokens.task,
            "tokens": tokens.model_dump(exclude={"task"}),
            "plugins": self.modules.plugins_of(families=[recipe.family], tasks=[tokens.task]),
        }
        identity = {**options, "plugins": [], "filter": filtered, "model": base}
        variant = f"{recipe.family}-{tokens.task}-{short_hash(identity)}"
        self.tokenize[dataset, variant] = {**options, "env_epoch": recipe.env_epoch}
        self.filter_of[dataset, variant] = filtered
        self.model_of["tokens", variant] = base
        return variant

    def _add_features(
        self,
        name: str,
        recipe: Recipe,
        stage: Stage,
        point: str,
        data: list[StageData],
        merging: Options,
    ) -> list[StageData]:
        """The stage's data with features of the model that its chain of stages starts from."""
        model = self.first_model(name, stage.name)
        options = {
            "family": recipe.family,
            "point": point,
            "precision": stage.precision,
            **merging,
            "plugins": self.modules.plugins_of(families=[recipe.family]),
        }
        variant = f"{point}-{short_hash({**options, 'plugins': [], 'model': model})}"
        self.model_of["features", variant] = model
        for one in data:
            key = (one.dataset, one.tokens, variant)
            self.features[key] = {**options, "env_epoch": recipe.env_epoch}
        return [replace(one, features=variant) for one in data]

    def features_of(self, recipe: str, stage: str) -> list[str]:
        """Manifests of the features that a stage trains and validates on."""
        data = self.stage_data[recipe, stage]
        if self.stage(recipe, stage).validation:
            data = data + self.validation_data[recipe, stage]
        found = [paths.features(d.dataset, d.tokens, d.features) for d in data if d.features]
        return list(dict.fromkeys(found))

    def validation_of(self, recipe: str, stage: str) -> list[str]:
        """The plan that a stage validates on, if it validates."""
        validates = self.stage(recipe, stage).validation
        return [paths.validation_plan(recipe, stage)] if validates else []

    def parent_of(self, recipe: str, stage: str) -> list[str]:
        """The result of the stage whose run a stage extends, if it extends one."""
        continued = self.stage(recipe, stage).continue_from
        return [paths.result(recipe, continued.stage)] if continued else []

    def named_steps(self, recipe: str, stage: str) -> list[int]:
        """Steps of a stage from which the recipe exports or goes on."""
        kind, _, step = self.stage(recipe, stage).export_from.partition(":")
        found = {int(step)} if kind == "step" else set()
        for one in self.config.recipes[recipe].stages:
            continued = one.continue_from
            if continued and continued.stage == stage and continued.step != "last":
                found.add(continued.step)
        return sorted(found)

    def _add_evaluation(self, name: str, recipe: Recipe, model: str, benchmark: str) -> None:
        tokens = recipe.tokens
        if model != "base":
            tokens = self.stage(name, model).tokens or tokens
        metric = self.config.datasets[benchmark].metric
        shared = {"task": tokens.task, "tokens": tokens.model_dump(exclude={"task"})}
        self.predict[name, model, benchmark] = {
            **shared,
            "plugins": self.modules.plugins_of(families=[recipe.family], tasks=[tokens.task]),
            "family": recipe.family,
            "max_new_tokens": recipe.max_new_tokens,
            "limit": None,
            "env_epoch": recipe.env_epoch,
        }
        self.score[name, model, benchmark] = {
            **shared,
            "plugins": self.modules.plugins_of(metrics=[metric], tasks=[tokens.task]),
            "metric": metric,
        }

    def stage(self, recipe: str, name: str) -> Stage:
        """A recipe's stage by name."""
        return next(stage for stage in self.config.recipes[recipe].stages if stage.name == name)

    def models(self, recipe: str) -> list[str]:
        """The models of a recipe that are evaluated: the base and every stage."""
        return ["base", *(stage.name for stage in self.config.recipes[recipe].stages)]

    def exports(self, recipe: str, stage: str) -> list[str]:
        """The exports of a stage; `merged` is always there, as evaluation reads it."""
        settings = self.stage(recipe, stage)
        wanted = settings.exports or self.config.recipes[recipe].exports
        if not settings.is_lora:
            wanted = [kind for kind in wanted if kind != "adapter"]
        return sorted({*wanted, "merged"})

    def export_paths(self) -> list[str]:
        """Manifests of every export of every stage."""
        return [paths.export(*key, kind) for key in self.train for kind in self.exports(*key)]

    def initial_model(self, recipe: str, stage: str) -> tuple[str, str]:
        """What a stage starts from: ("model", name) or ("stage", name)."""
        init = self.stage(recipe, stage).init
        if init == "base":
            return "model", self.model_of[recipe, "base"]
        if init.startswith(FOREIGN):
            return "model", self.model_of[recipe, f"init of {stage}"]
        return "stage", init

    def first_model(self, recipe: str, stage: str) -> str:
        """The name of the model that a stage's chain of stages starts from."""
        *_, first = chain(self.config.recipes[recipe], self.stage(recipe, stage))
        return self.initial_model(recipe, first.name)[1]

    @cached_property
    def folder_digests(self) -> dict[str, str]:
        """One digest of (relative path, size) for each folder source, read at parse time."""
        return {
            name: folder_digest(folders.source_folder(options["source"]))
            for (name,), options in {**self.fetch, **self.source_models.fetch}.items()
            if options["source"].startswith("folder:")
        }

    def _filters(self, entries: list[dict[str, Options]], where: str) -> list[Options]:
        used = check_filters(entries, where, self.modules)
        for one in used:
            if one.scorer:
                self._add_scorer(one.scorer, one.where)
        return [one.entry for one in used]

    def _add_scorer(self, scorer: UsedScorer, where: str) -> None:
        self.scorers[scorer.scores] = {
            "scorer": scorer.name,
            "scorer_options": scorer.options,
            "plugins": self.modules.plugins_of(scorers=[scorer.name]),
        }
        if scorer.labels is not None:
            self._add_dataset(scorer.labels, f"{where}.labels")
            self.train_classifier[(scorer.scores,)] = self.scorers[scorer.scores]
            self.labels_of[scorer.scores] = scorer.labels
        if scorer.model:
            self.model_of["scores", scorer.scores] = self.source_models.add_source(scorer.model)


def folder_digest(folder: Path) -> str:
    """Digest over the relative path and size of every file in a folder."""
    if not folder.is_dir():
        return "missing"
    try:
        rows = sorted(f"{path}\t{size}" for path, size in locks.walk(folder))
    except DataError:
        return "cannot be locked"  # `fetch_dataset` says why
    return sha256_bytes("\n".join(rows).encode())[:16]
