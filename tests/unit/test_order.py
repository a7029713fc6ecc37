"""From drawn lengths to what the ranks are given: each sample once an epoch, within budgets."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

import token_data
from shardline.errors import DataError
from shardline.families import qwen2_vl as family
from shardline.files import read_json, read_jsonl
from shardline.loader import PlanDataset
from shardline.plan_file import read_plan, samples_of_step
from shardline.token_index import read_index

OPTIONS = {**token_data.OPTIONS, "task": "chat"}
SHAPES = st.lists(
    st.tuples(
        st.integers(1, 150),
        st.lists(st.sampled_from([(28, 28), (56, 84), (112, 56), (140, 140)]), max_size=2),
    ),
    min_size=1,
    max_size=12,
)
PACKINGS: dict[str, dict[str, Any]] = {
    "step": {"global_batch": {"samples": 5}},
    "flatten": {"global_batch": {"samples": 5}, "packing": "flatten", "length_grouped": True},
    "none": {"global_batch": {"samples": 4}, "packing": "none"},
    "global": {"global_batch": {"tokens": 640}},
    "given": {"global_batch": {"tokens": 640}, "packing": "given"},
}


class Case(NamedTuple):
    """A stage over two datasets, and the hardware it runs on."""

    one: list[tuple[int, list[tuple[int, int]]]]
    two: list[tuple[int, list[tuple[int, int]]]]
    max_length: int
    max_patches: int | None
    too_long: str
    fixed_shape: bool
    seed: int
    epochs: int
    ranks: int
    micro_batch: int
    more: int
    """Rows a step and rank beyond those that the fullest step needs."""


CASES = st.builds(
    Case,
    SHAPES,
    SHAPES,
    st.integers(40, 320),
    st.one_of(st.none(), st.integers(30, 200)),
    st.sampled_from(["reject", "truncate_answer"]),
    st.booleans(),
    st.integers(0, 2**31),
    st.integers(1, 2),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(0, 1),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return token_data.tokenizer_folder(tmp_path_factory.mktemp("model"))


@settings(max_examples=12)
@given(CASES)
def test_every_kept_sample_is_given_to_one_rank_once_an_epoch(model, case):
    with TemporaryDirectory() as folder:
        results = Path(folder)
        manifests = [
            tokenised(results, model, name, getattr(case, name)) for name in ("one", "two")
        ]
        for packing in PACKINGS:
            note(packing)
            assert_each_sample_once(results, manifests, packing, case)


def assert_each_sample_once(results: Path, manifests: list[Path], packing: str, case: Case) -> None:
    """Plan one way of packing and compare what all ranks are given with what was kept."""
    fitting, rows = lengths_and_patches(manifests, case)
    options = {
        **PACKINGS[packing],
        **{key: getattr(case, key) for key in ("max_length", "max_patches", "too_long")},
        **{key: getattr(case, key) for key in ("fixed_shape", "seed", "epochs")},
    }
    try:
        plan = token_data.plan(results, manifests, packing, **options)
    except DataError as error:
        assert "no sample is left" in str(error) and not fitting
        return
    kept = rows.keys() - rejected(plan)
    assert kept == fitting or (case.too_long == "truncate_answer" and kept > fitting)
    given_rows = rows_of_ranks(results, plan, case)
    steps = [[name for row in rows for name in row["samples"]] for rows in given_rows]
    assert Counter(itertools.chain(*steps)) == dict.fromkeys(kept, case.epochs)
    assert any(
        once(itertools.chain(*steps[:border])) and once(itertools.chain(*steps[border + 1 :]))
        for border in range(len(steps))
    ), "a sample twice in an epoch"
    for row in itertools.chain(*given_rows):
        assert_within_budgets(row, case, rows)


def tokenised(results: Path, model: Path, name: str, shapes: list) -> Path:
    made = token_data.talks(shapes, name)
    for number, (sample, _) in enumerate(made):
        sample.meta["pack"] = f"rows.json#{number // 3}"
    filtered = token_data.write_filtered(results, made, shard_size=8)
    return token_data.tokenise(filtered, model, options=OPTIONS)


def lengths_and_patches(manifests, case) -> tuple[set[str], dict[str, tuple[int, int]]]:
    """Samples that are within both budgets whole; length and patches of every sample."""
    rows = {
        row["id"]: (row["length"], row["patches"])
        for manifest in manifests
        for shard in read_json(manifest)["shards"]
        for row in read_index(
            manifest.parent / shard["index"], ["id", "length", "patches"]
        ).to_pylist()
    }
    most = case.max_patches if case.max_patches is not None else 10**9
    fitting = {
        name
        for name, (length, patches) in rows.items()
        if length <= case.max_length and patches <= most
    }
    return fitting, rows


def rejected(plan: Path) -> set[str]:
    return {
        f"{row['dataset']}:{row['row']}" for row in read_jsonl(plan.with_suffix(".rejects.jsonl"))
    }


def rows_of_ranks(results: Path, plan: Path, case: Case) -> list[list[dict[str, Any]]]:
    """The rows of each step, those of all ranks in the order of the packs; compared to the plan."""
    parquet = plan.with_suffix(".parquet")
    size = {"ranks": case.ranks, "micro_batch": case.micro_batch}
    needed = PlanDataset(results, plan, parquet, family, **size).accumulation
    size["accumulation"] = needed + case.more
    parts = [
        PlanDataset(results, plan, parquet, family, rank=rank, **size) for rank in range(case.ranks)
    ]
    known = read_plan(plan, parquet)
    found = []
    for step in range(known.steps):
        first = step * size["accumulation"]
        rows = [part[item] for item in range(first, first + size["accumulation"]) for part in parts]
        names = [name for row in rows for name in row["samples"]]
        assert names == [sample["id"] for sample in samples_of_step(known, step, results)]
        learned = sum(int((row["labels"] != -100).sum()) for row in rows)
        assert learned == known.supervised_of(step) == rows[0]["loss_denominator"]
        found.append(rows)
    return found


def once(names) -> bool:
    return max(Counter(names).values(), default=1) == 1


def assert_within_budgets(row: dict[str, Any], case: Case, known: dict) -> None:
    """A row has at most ``micro_batch`` packs, each within the budgets."""
    tokens = row["input_ids"].shape[1]
    assert tokens <= case.micro_batch * case.max_length
    assert tokens == case.micro_batch * case.max_length or not case.fixed_shape
    assert int(row["cu_seq_lens_q"][-1]) == tokens
    patches = int(row["image_grid_thw"].prod(dim=1).sum())
    assert patches <= case.micro_batch * (case.max_patches or 10**9)
    if row["samples"]:
        assert patches == sum(known[name][1] for name in row["samples"])
