"""Trainings in processes of their own, what they saved, and damage to what they read."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tiny_project import Project

from project_root import ROOT
from shardline.plan_file import read_plan
from shardline.token_index import ShardIndex
from shardline.training import checkpoints


def start(words: list[str], own_group: bool = False) -> subprocess.Popen[str]:
    """The training program; all that it says goes to one pipe."""
    return subprocess.Popen(
        [sys.executable, "scripts/train_stage.py", *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=own_group,
    )


def wait_for_checkpoint(project: Project, process: subprocess.Popen[str], step: int) -> None:
    """Until there is a checkpoint of this step or a later one."""
    while process.poll() is None:
        found = project.stage.glob("work/*/checkpoint-*/complete.json")
        if any(int(seal.parent.name.split("-")[1]) >= step for seal in found):
            return
        time.sleep(0.005)
    pytest.fail(process.communicate()[0])


def saved(project: Project) -> list[int]:
    """Steps of the checkpoints that are there."""
    return sorted(
        checkpoints.step_of(folder)
        for folder in project.work.glob("checkpoint-*")
        if checkpoints.sealed(folder)
    )


@contextmanager
def damaged(project: Project, step: int) -> Iterator[str]:
    """The last sample of a step (from 0) cannot be read for as long as this lasts; its name."""
    plan = read_plan(project.plan, project.parquet)
    place = plan.samples(plan.packs(step)[-1])[-1]
    shard = plan.summary["shards"][place.shard]
    index = ShardIndex(project.results / shard["index"], shard["index_sha256"])
    tar = project.results / shard["path"]
    offset, size = index.places(place.row)["labels.npy"]
    whole = tar.read_bytes()
    tar.write_bytes(whole[:offset] + bytes(size) + whole[offset + size :])
    try:
        yield f"{tar.name}: sample {index.ids[place.row].as_py()} (row {place.row})"
    finally:
        tar.write_bytes(whole)


def first_use(project: Project) -> int:
    """A step whose last sample is in no step before it, as late as there is one."""
    plan = read_plan(project.plan, project.parquet)
    seen: set[tuple[int, int]] = set()
    found = 0
    for step in range(plan.steps):
        places = [(p.shard, p.row) for pack in plan.packs(step) for p in plan.samples(pack)]
        if places[-1] not in seen:
            found = step
        seen.update(places)
    return found
