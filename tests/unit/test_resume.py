"""Going on at any step, in a new process on other hardware: the same packs as without a stop."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from itertools import cycle

import pytest

import token_data
from project_root import ROOT
from real_samples import convert, media_bytes
from resumed_order import order_from
from shardline.files import read_json

# Ranks, loader processes a rank, packs a forward.
HARDWARE = ((1, 0, 1), (2, 1, 1), (3, 0, 2), (4, 0, 1), (1, 2, 4), (2, 0, 3))
STARTS = 50
PROCESSES = 2


def drawn(results, model):
    """Screens, and talks with none, one or several pictures."""
    chance = random.Random(5)
    sizes = [(28, 28), (84, 56), (140, 112)]
    shapes = [
        (chance.randrange(1, 120), chance.choices(sizes, k=chance.randrange(3))) for _ in range(90)
    ]
    screens = token_data.write_filtered(results, token_data.screens(80), 40)
    talks = token_data.write_filtered(results, token_data.talks(shapes), 90)
    return [
        token_data.tokenise(screens, model),
        token_data.tokenise(talks, model, options={**token_data.OPTIONS, "task": "chat"}),
    ]


REAL = {
    "mllm": ("llama_factory_mllm_demo", {"format": "qwenvl"}),
    "swift": ("ms_swift_rows", {"format": "qwenvl"}),
    "finetune": ("qwen_vl_finetune_demo", {"format": "qwenvl"}),
    "history": (
        "agentnetbench_trajectories",
        {
            "format": "navigation",
            "format_options": {"layout": "agentnet", "history": 2, "interleaving": "vtvt"},
        },
    ),
    "screenagent": (
        "screenagent_sessions",
        {"format": "navigation", "format_options": {"layout": "screenagent"}},
    ),
}


def real(results, model, shared_data):
    """Conversations with images, several images, videos and none."""
    options = {**token_data.OPTIONS, "task": "chat"}
    manifests = []
    for name, (folder, form) in REAL.items():
        samples = convert(shared_data / folder, results, name, **form)
        entries = [(sample, media_bytes(sample, results)) for sample in samples]
        filtered = token_data.write_filtered(results, entries, 50)
        manifests.append(token_data.tokenise(filtered, model, options=options))
    return manifests


def starts_of(steps: int) -> list[dict[str, int]]:
    """Steps by lot, the first and the last among them, each on the next hardware."""
    chance = random.Random(50)
    chosen = [0, steps - 1, *(chance.randrange(steps) for _ in range(STARTS - 2))]
    names = ("ranks", "workers", "micro_batch")
    return [
        {"step": step, **dict(zip(names, hardware, strict=True))}
        for step, hardware in zip(chosen, cycle(HARDWARE))
    ]


def in_fresh_processes(results, plan, starts):
    """The orders from these starts, some of them in each process."""
    found = [None] * len(starts)
    for number in range(PROCESSES):
        places = range(number, len(starts), PROCESSES)
        given = {
            "results": str(results),
            "plan": str(plan),
            "family": "qwen2_vl",
            "starts": [starts[place] for place in places],
        }
        done = subprocess.run(
            [sys.executable, "-m", "resumed_order", json.dumps(given)],
            env={"PYTHONPATH": f"{ROOT / 'scripts'}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        for place, order in zip(places, json.loads(done.stdout), strict=True):
            found[place] = order
    return found


def assert_same_from_anywhere(results, plan):
    whole = order_from(results, plan, "qwen2_vl", step=0)
    assert len(whole) >= STARTS and max(map(len, whole)) == 4
    starts = starts_of(len(whole))
    for start, order in zip(starts, in_fresh_processes(results, plan, starts), strict=True):
        assert order == whole[start["step"] :], start


def test_going_on_at_fifty_steps_gives_the_remaining_packs(tmp_path):
    manifests = drawn(tmp_path, token_data.tokenizer_folder(tmp_path))
    batch = {"global_batch": {"tokens": 512}, "max_length": 128}
    plan = token_data.plan(tmp_path, manifests, steps=52, epochs=None, **batch)
    assert read_json(plan)["samples"] > read_json(plan)["packs"]
    assert_same_from_anywhere(tmp_path, plan)


@pytest.mark.slow
def test_going_on_at_fifty_steps_of_real_samples_gives_the_remaining_packs(tmp_path, shared_data):
    manifests = real(tmp_path, token_data.tokenizer_folder(tmp_path), shared_data)
    batch = {"global_batch": {"samples": 4}, "max_length": 4096, "packing": "flatten"}
    plan = token_data.plan(tmp_path, manifests, steps=50, epochs=None, **batch)
    assert_same_from_anywhere(tmp_path, plan)
