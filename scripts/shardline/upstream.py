"""Input functions of the rules: which files each job needs.

Every small manifest is the output of a checkpoint rule, a gate: when it is finished, Snakemake
judges its users anew, so unchanged bytes stop the cascade there. Only what depends on how many
shards there are has to read a manifest while the graph is built.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from snakemake.io import ancient

from shardline import paths
from shardline.config.project import Project
from shardline.files import read_json

_SHARD = re.compile(r"^(samples|shard)-|\.(jsonl\.zst|tar)$")  # what all names of a list share


class Upstream:
    """Input and parameter functions over a project's jobs; each takes the job's wildcards."""

    def __init__(self, project: Project, checkpoints: Any, workflow: Any) -> None:
        self._project = project
        self._gates = checkpoints
        self._workflow = workflow
        self._lists: dict[str, tuple[tuple[int, ...], dict[str, str]]] = {}

    def judge_anew(self, wildcards):
        """No file: withdraw the reason "input files updated by another job" wherever it is given.

        Snakemake asks a gate's users for their inputs again when the gate is done, but jobs
        further down keep that reason, even when the other job was dropped meanwhile. It sets the
        reason again where it still holds, right after it has asked.
        """
        if self._workflow.dag:
            for job in self._workflow.dag.jobs:
                self._workflow.dag.reason(job).updated_input_run.clear()
        return []

    def folder_digest(self, wildcards):
        """What a folder source holds now; None for other sources."""
        name = getattr(wildcards, "dataset", None) or wildcards.model
        return self._project.folder_digests.get(name)

    def text_of_model(self, wildcards):
        """Manifests of the datasets whose text trains a built model's tokenizer."""
        options = self._project.source_models.build[(wildcards.model,)]
        return [paths.converted(dataset) for dataset in options["datasets"]]

    def base_of_adapter(self, wildcards):
        """Lock of the base that a foreign adapter is merged into."""
        return paths.model_lock(self._project.source_models.adapted_from[wildcards.model][0])

    def adapter(self, wildcards):
        """Lock of a foreign adapter."""
        return paths.model_lock(self._project.source_models.adapted_from[wildcards.model][1])

    def converted(self, wildcards):
        """Manifests that a filter chain reads: the dataset's own, earlier ones, benchmarks."""
        options = self._project.decide[wildcards.dataset, wildcards.variant]
        names = [wildcards.dataset, *options["earlier"], *options["benchmarks"]]
        return [paths.converted(name) for name in names]

    def image_scores(self, wildcards):
        """Manifests of the scores that a filter chain judges by."""
        options = self._project.decide[wildcards.dataset, wildcards.variant]
        names = dict.fromkeys(entry["scores"] for entry in options["filters"] if "scores" in entry)
        return [paths.image_scores(wildcards.dataset, name) for name in names]

    def scorer_model(self, wildcards):
        """Manifest of the model behind scores: a fetched one's lock, or a trained classifier's."""
        if (wildcards.scores,) in self._project.train_classifier:
            return paths.classifier(wildcards.scores)
        if name := self._project.model_of.get(("scores", wildcards.scores)):
            return paths.model_lock(name)
        return []

    def labels(self, wildcards):
        """Manifest of the labelled images that a classifier learns from."""
        return paths.converted(self._project.labels_of[wildcards.scores])

    def classifier_weights(self, wildcards):
        """Lock of the model that a classifier starts from, if it starts from one."""
        name = self._project.model_of.get(("scores", wildcards.scores))
        return paths.model_lock(name) if name else []

    def converted_dataset(self, wildcards):
        """Manifest of one converted dataset."""
        return paths.converted(wildcards.dataset)

    def converted_shard_hash(self, wildcards):
        """Hash of one converted shard."""
        return self._converted_shards(wildcards).get(wildcards.block)

    def score_shards(self, wildcards):
        """The scores of all shards of a converted dataset."""
        folder = f"{paths.RESULTS}/scores/{wildcards.dataset}/{wildcards.scores}"
        return [f"{folder}/scores-{block}.jsonl" for block in self._converted_shards(wildcards)]

    def _converted_shards(self, wildcards) -> dict[str, str]:
        gate = self._gates.convert_dataset.get(dataset=wildcards.dataset)
        return self._listed(gate.output.manifest)

    def decided_shard(self, wildcards):
        """Hash of what was decided about one shard and of its source."""
        return self._decided_shards(wildcards).get(wildcards.shard)

    def image_shards(self, wildcards):
        """All image shards of a filtered dataset."""
        folder = f"{paths.RESULTS}/filtered/{wildcards.dataset}/{wildcards.variant}"
        return [f"{folder}/shard-{shard}.tar" for shard in self._decided_shards(wildcards)]

    def _decided_shards(self, wildcards) -> dict[str, str]:
        gate = self._gates.decide_filters.get(dataset=wildcards.dataset, variant=wildcards.variant)
        return self._listed(gate.output[0])

    def _listed(self, path: str) -> dict[str, str]:
        """Hash of each shard in a list of shards, by the part of its name that is its own.

        Read once for as long as the file stays the same: thousands of jobs ask.
        """
        status = os.stat(path)
        version = (status.st_ino, status.st_mtime_ns, status.st_size)
        known = self._lists.get(path)
        if known is None or known[0] != version:
            names = {
                _SHARD.sub("", entry.get("shard") or entry["name"]): entry["sha256"]
                for entry in read_json(Path(path))["shards"]
            }
            known = self._lists[path] = (version, names)
        return known[1]

    def tokenizer(self, wildcards):
        """Lock of the model whose tokenizer a token variant uses."""
        return paths.model_lock(self._project.model_of["tokens", wildcards.variant])

    def filtered(self, wildcards):
        """Manifest of the image shards behind a token variant."""
        variant = self._project.filter_of[wildcards.dataset, wildcards.variant]
        return paths.filtered(wildcards.dataset, variant)

    def image_shard(self, wildcards):
        """One image shard, judged not by its time but by `image_shard_hash`."""
        folder = self.filtered(wildcards).removesuffix("/manifest.json")
        return ancient(f"{folder}/shard-{wildcards.shard}.tar")

    def image_shard_hash(self, wildcards):
        """Hash of one image shard."""
        return self._filtered_shards(wildcards).get(wildcards.shard)

    def token_shards(self, wildcards):
        """All token shards of a token variant."""
        folder = f"{paths.RESULTS}/tokens/{wildcards.dataset}/{wildcards.variant}"
        return [f"{folder}/shard-{shard}.tar" for shard in self._filtered_shards(wildcards)]

    def _filtered_shards(self, wildcards) -> dict[str, str]:
        variant = self._project.filter_of[wildcards.dataset, wildcards.variant]
        gate = self._gates.write_filter_manifest.get(dataset=wildcards.dataset, variant=variant)
        return self._listed(gate.output.manifest)

    def tokens(self, wildcards):
        """Manifests of the token shards that a stage trains on, in the mixture's order."""
        data = self._project.stage_data[wildcards.recipe, wildcards.stage]
        return [paths.tokens(entry.dataset, entry.tokens) for entry in data]

    def merging_model(self, wildcards):
        """Lock of a model with the tower in which a stage merges tokens, if it does.

        How many tokens are left follows from the tower's number of layers.
        """
        key = wildcards.recipe, wildcards.stage
        if "token_merging" not in self._project.plan[key]:
            return []
        return paths.model_lock(self._project.first_model(*key))

    def validation_tokens(self, wildcards):
        """Manifests of the token shards of what a stage validates on, or its recipe holds out."""
        data = self._project.validation_data[wildcards.recipe, wildcards.stage]
        return [paths.tokens(entry.dataset, entry.tokens) for entry in data]

    def validation(self, wildcards):
        """The plan that a stage validates on; none if it does not."""
        return self._project.validation_of(wildcards.recipe, wildcards.stage)

    def parent(self, wildcards):
        """The result of the stage whose run a stage extends; none if it extends none."""
        return self._project.parent_of(wildcards.recipe, wildcards.stage)

    def named_steps(self, wildcards, input):
        """Steps of a stage that the recipe names. Taking ``input`` keeps them from being tracked:
        a training is the same whichever of its checkpoints are kept.
        """
        return self._project.named_steps(wildcards.recipe, wildcards.stage)

    def features_model(self, wildcards):
        """Lock of the model whose vision tower features are of."""
        return paths.model_lock(self._project.model_of["features", wildcards.features])

    def token_shard(self, wildcards):
        """One token shard, judged not by its time but by `token_shard_hash`."""
        folder = f"{paths.RESULTS}/tokens/{wildcards.dataset}/{wildcards.variant}"
        return ancient(f"{folder}/shard-{wildcards.shard}.tar")

    def token_shard_hash(self, wildcards):
        """Hash of one token shard."""
        return self._listed_tokens(wildcards).get(wildcards.shard)

    def feature_shards(self, wildcards):
        """The features of all token shards of a token variant."""
        names = (wildcards.dataset, wildcards.variant, wildcards.features)
        folder = paths.features(*names).removesuffix("/manifest.json")
        return [f"{folder}/shard-{shard}.tar" for shard in self._listed_tokens(wildcards)]

    def _listed_tokens(self, wildcards) -> dict[str, str]:
        gate = self._gates.write_token_manifest.get(
            dataset=wildcards.dataset, variant=wildcards.variant
        )
        return self._listed(gate.output.manifest)

    def features(self, wildcards):
        """Manifests of the features that a stage reads; none if it runs its vision tower."""
        return self._project.features_of(wildcards.recipe, wildcards.stage)

    def initial_model(self, wildcards):
        """Lock of the base model, or merged export of the stage, that a stage starts from."""
        kind, name = self._project.initial_model(wildcards.recipe, wildcards.stage)
        if kind == "model":
            return paths.model_lock(name)
        return paths.export(wildcards.recipe, name, "merged")

    def evaluated_model(self, wildcards):
        """Lock of the base model, or merged export of a stage, that is evaluated."""
        if wildcards.model == "base":
            return paths.model_lock(self._project.model_of[wildcards.recipe, "base"])
        return paths.export(wildcards.recipe, wildcards.model, "merged")

    def scores(self, wildcards):
        """Scores of all of a recipe's models on all its benchmarks."""
        return [paths.scores(*key) for key in self._project.score if key[0] == wildcards.recipe]

    def filter_pictures(self, wildcards):
        """Lists of the pictures of all filtered datasets that a recipe trains on."""
        found = [
            paths.filter_pictures(data.dataset, data.filtered)
            for (recipe, _), stage in self._project.stage_data.items()
            if recipe == wildcards.recipe
            for data in stage
        ]
        return list(dict.fromkeys(found))

    def exports(self, wildcards):
        """Manifests of all of a recipe's exports."""
        prefix = f"{paths.RESULTS}/models/{wildcards.recipe}/"
        return [path for path in self._project.export_paths() if path.startswith(prefix)]
