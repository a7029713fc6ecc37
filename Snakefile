"""Shardline: raw vision-language data to reported, fine-tuned models.

Stages, each a file in rules/: sources, convert, score, filter, tokenize, features, plan, train, export,
evaluate, report. Config: config/*.yaml, then your own --configfile. Hardware: a profile in profiles/.
"""

import sys
from pathlib import Path

from snakemake.utils import min_version

min_version("9.20")

sys.path.insert(0, str(Path(workflow.basedir) / "scripts"))

from shardline import paths
from shardline.controller import Delivery, open_project
from shardline.dag import Tracked
from shardline.upstream import Upstream

project = open_project(workflow)
upstream = Upstream(project, checkpoints, workflow)
delivery = Delivery(project)


container: "docker://shardline:0.1.0"


wildcard_constraints:
    dataset=r"\w+",
    recipe=r"\w+",
    stage=r"\w+",
    model=r"\w+",
    benchmark=r"\w+",
    variant=r"[\w-]+",
    features=r"[\w-]+",
    scores=r"[\w-]+",
    shard=r"\d{5}-[a-z0-9_-]+",


include: "rules/sources.smk"
include: "rules/convert.smk"
include: "rules/score.smk"
include: "rules/filter.smk"
include: "rules/tokenize.smk"
include: "rules/features.smk"
include: "rules/plan.smk"
include: "rules/train.smk"
include: "rules/export.smk"
include: "rules/evaluate.smk"
include: "rules/report.smk"


localrules:
    all,
    data,
    tokens,
    plans,
    train,
    models,
    evals,
    reports,


rule all:
    """Everything of the recipes in `build`: their reports."""
    default_target: True
    input:
        rules.reports.input,


onstart:
    delivery.start()


onsuccess:
    delivery.finish()


onerror:
    delivery.finish()
