"""Plans: shares, epochs, steps and packs, and the preflight that guards them."""

import json
from collections import Counter
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import token_data
from shardline.errors import ConfigError, DataError
from shardline.families import qwen2_vl
from shardline.files import file_entry, read_json, read_jsonl, sha256_file, write_json
from shardline.mixture import apportion, choose, draw, permutation
from shardline.packing import best_fit, pack_steps
from shardline.plan_file import read_plan, samples_of_step
from shardline.preflight import COLUMNS, REASONS, preflight
from shardline.shards import Member, write_shard
from shardline.token_index import read_facts, read_index, write_index


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(1, 350)), min_size=1, max_size=6))
def test_shares_are_within_one_sample_and_their_total_is_rounded(entries):
    counts, percents = zip(*entries, strict=True)
    taken = apportion(counts, percents)
    exact = [Fraction(count * percent, 100) for count, percent in entries]
    assert all(abs(number - share) < 1 for number, share in zip(taken, exact, strict=True))
    assert abs(sum(taken) - sum(exact)) <= Fraction(1, 2)


def test_largest_remainder_by_hand():
    assert apportion([101, 7, 10], [50, 50, 100]) == [51, 3, 10]  # 50.5 + 3.5 + 10 = 64
    assert apportion([101], [50]) == [51]
    assert apportion([10], [250]) == [25]
    assert apportion([0, 4], [50, 25]) == [0, 1]


@given(st.integers(1, 60), st.integers(0, 200), st.integers(0, 3))
def test_a_share_takes_every_sample_equally_often(size, count, seed):
    ids = [f"d:{number}" for number in range(size)]
    times = Counter(choose(ids, count, seed, "d").tolist())
    assert sum(times.values()) == count
    often = [times[row] for row in range(size)]
    assert max(often) - min(often) <= 1


def test_a_share_follows_the_ids_not_their_places():
    ids = [f"d:{number}" for number in range(200)]
    half = {ids[row] for row in choose(ids, 100, 0, "d")}
    assert {ids[row] for row in choose(ids, 120, 0, "d")} > half
    backwards = ids[::-1]
    assert {backwards[row] for row in choose(backwards, 100, 0, "d")} == half
    assert {ids[row] for row in choose(ids, 100, 1, "d")} != half
    assert 30 < len({ids[row] for row in choose(ids, 100, 0, "e")} & half) < 70


@given(st.integers(1, 50), st.integers(1, 200), st.integers(0, 5))
def test_epochs_are_permutations(size, total, seed):
    order = draw(size, total, seed)
    assert len(order) == total
    for start in range(0, total, size):
        epoch = order[start : start + size].tolist()
        assert len(set(epoch)) == len(epoch)
    if total >= 2 * size > 20:
        assert order[:size].tolist() != order[size : 2 * size].tolist()


def test_the_order_is_pinned():
    """Another order would retrain every model: it may not change with a version of numpy."""
    assert permutation(8, 42, 0).tolist() == [6, 4, 1, 0, 7, 3, 2, 5]
    assert choose([f"d:{n}" for n in range(8)], 4, 42, "d").tolist() == [0, 3, 5, 6]


LENGTHS = st.lists(st.integers(1, 100), min_size=1, max_size=60)


@given(LENGTHS, st.integers(1, 20))
def test_packs_hold_every_sample_of_their_step_once_within_budget(lengths, batch):
    order, packs, steps = pack_steps(np.array(lengths), batch, 100)
    assert sorted(order.tolist()) == list(range(len(lengths)))
    assert (np.diff(packs) >= 0).all() and set(packs.tolist()) == set(range(len(steps)))
    for pack, step in enumerate(steps):
        members = order[packs == pack]
        assert np.array(lengths)[members].sum() <= 100
        assert (members // batch == step).all()
    assert (np.diff(steps) >= 0).all()


@given(LENGTHS)
def test_best_fit_is_within_its_bound(lengths):
    packs = best_fit(sorted(lengths, reverse=True), 100)
    fewest = -(-sum(lengths) // 100)
    at_most_one_half_empty = Counter()
    for length, pack in zip(sorted(lengths, reverse=True), packs, strict=True):
        at_most_one_half_empty[pack] += length
    assert sum(total <= 50 for total in at_most_one_half_empty.values()) <= 1
    assert len(set(packs)) <= 2 * fewest


def test_best_fit_by_hand():
    assert best_fit([60, 50, 40, 30, 20], 100) == [0, 1, 0, 1, 1]


def rows(**changes):
    """Three good samples of 30 text tokens, with 1, 2 and 0 images; changes apply to row 1."""
    made = []
    for number, grids in enumerate(([[1, 4, 6]], [[1, 4, 4], [1, 8, 4]], [])):
        visual = sum(h * w // 4 for _, h, w in grids)
        pictures = (f"{image}.png" for image in range(len(grids)))
        names = ["json", *pictures, "input_ids.npy", "labels.npy"]
        made.append(
            {
                "key": f"k{number}",
                "id": f"d:f#{number}",
                "dataset": "d",
                "group": "",
                "pack": "",
                "length": 30 - len(grids) + visual,
                "text_length": 30,
                "placeholders": len(grids),
                "patches": 4 * visual,
                "supervised": 5,
                "media_end": 20 if grids else 0,
                "answers": [22, 27],
                "grids": grids,
                "members": [Member(f"k{number}.{name}", 512, 100)._asdict() for name in names],
            }
        )
    made[1].update(changes)
    return made


def check(made):
    table = pa.Table.from_pylist([{key: row[key] for key in COLUMNS} for row in made])
    found = preflight(table, 10_000, qwen2_vl, 100, dataset="d", max_patches=90)
    return [REASONS[code] for code in found]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"placeholders": 3}, "placeholders"),
        ({"placeholders": 1, "length": 41}, "placeholders"),
        ({"grids": [[1, 4, 4]]}, "placeholders"),
        ({"members": ["json", "0.png", "input_ids.npy", "labels.npy"]}, "placeholders"),
        ({"grids": [[1, 4, 4], [1, 4, 8]], "length": 41}, "length"),
        ({"grids": [[1, 4, 4], [1, 8, 8]]}, "grid"),
        ({"grids": [[1, 4, 4], [1, 7, 4]], "patches": 44, "length": 39}, "grid"),
        ({"grids": [[1, 4, 4], [0, 8, 4]], "patches": 16, "length": 32}, "grid"),
        ({"supervised": 0, "answers": []}, "no_supervised"),
        ({"answers": [22, 26]}, "labels"),
        ({"answers": [22, 27, 30]}, "labels"),
        ({"answers": [27, 22, 30, 40]}, "labels"),
        ({"answers": [36, 41]}, "labels"),
        ({"media_end": 41}, "labels"),
        ({"text_length": 100, "length": 110}, "too_long"),
        ({"grids": [[1, 4, 4], [1, 20, 4]], "patches": 96, "length": 52}, "too_many_patches"),
        ({"members": ["json", "0.png", "1.png", "input_ids.npy"]}, "arrays"),
        ({"members": ["json", "0.png", "1.png", "labels.npy", "other.npy"]}, "arrays"),
        ({"offset": 9_901}, "members"),
        ({"size": 0}, "members"),
        ({"dataset": "e"}, "dataset"),
    ],
)
def test_preflight_names_what_would_crash_or_poison(changes, reason):
    changes = dict(changes)
    offset, size = changes.pop("offset", 512), changes.pop("size", 100)
    suffixes = changes.pop("members", ["json", "0.png", "1.png", "input_ids.npy", "labels.npy"])
    changes["members"] = [Member(f"k1.{name}", offset, size)._asdict() for name in suffixes]
    assert check(rows(**changes)) == ["", reason, ""]


@given(
    st.sampled_from(["length", "text_length", "placeholders", "patches", "supervised"]),
    st.integers(-60, 60).filter(bool),
)
def test_no_count_of_an_index_can_be_wrong_unnoticed(name, change):
    [wrong] = rows()[1:2]
    found = check(rows(**{name: wrong[name] + change}))
    assert found[0] == found[2] == "" and found[1] != ""


def test_preflight_asks_the_family_how_a_grid_expands():
    merging = SimpleNamespace(MERGE=2, visual_tokens=lambda grid: grid[0] * grid[1] * grid[2] // 8)
    table = pa.Table.from_pylist([{key: row[key] for key in COLUMNS} for row in rows()])
    assert [REASONS[code] for code in preflight(table, 10_000, merging, 100)] == [
        "length",
        "length",
        "",
    ]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Two tokenised datasets."""
    folder = tmp_path_factory.mktemp("plans") / "results"
    model = token_data.tokenizer_folder(folder)
    for dataset, count in (("one", 20), ("two", 13)):
        made = token_data.screens(count, dataset)
        token_data.tokenise(token_data.write_filtered(folder, made), model)
    return folder


def manifests(results):
    return [results / "tokens" / name / "tiny" / "manifest.json" for name in ("one", "two")]


def load(path):
    return read_plan(path, path.with_suffix(".parquet"))


def drawn(plan, results):
    return [
        [sample["id"] for sample in samples_of_step(plan, step, results)]
        for step in range(plan.steps)
    ]


def test_one_epoch_has_every_sample_once_and_its_figures_add_up(results):
    path = token_data.plan(results, manifests(results))
    plan, summary = load(path), read_json(path)
    steps = drawn(plan, results)
    everything = [name for step in steps for name in step]
    assert len(everything) == len(set(everything)) == 33 == summary["samples"]
    assert [len(step) for step in steps] == [8, 8, 8, 8, 1]
    assert summary["steps"] == plan.steps == 5 and summary["epochs"] == 1
    assert summary["distinct_samples"] == 33 and summary["rejected"] == 0
    tokens = read_json(manifests(results)[0]), read_json(manifests(results)[1])
    for key in ("tokens", "supervised_tokens", "patches"):
        assert summary[key] == sum(manifest[key] for manifest in tokens)
    assert summary["tokens"] == plan.tokens.sum() == plan.length.sum()
    assert plan.tokens.max() <= 256 and summary["packs"] == len(plan.tokens)
    assert summary["max_packs_per_step"] == max(len(plan.packs(s)) for s in range(5))
    assert sum(summary["histogram"]["counts"]) == 33
    assert summary["fill"] == pytest.approx(plan.tokens.sum() / (256 * len(plan.tokens)), abs=1e-6)
    assert summary["parquet_sha256"] == sha256_file(path.with_suffix(".parquet"))
    for step in range(5):
        assert plan.supervised_of(step) == plan.supervised[list(plan.packs(step))].sum()


def test_a_plan_is_reproducible_and_its_seed_and_length_matter(results):
    first = token_data.plan(results, manifests(results))
    before = token_data.files_under(first.parent)
    token_data.plan(results, manifests(results))
    assert token_data.files_under(first.parent) == before
    order = drawn(load(first), results)
    other = token_data.plan(results, manifests(results), "other", seed=1)
    assert drawn(load(other), results) != order
    longer = token_data.plan(results, manifests(results), "longer", max_length=512)
    assert [set(step) for step in drawn(load(longer), results)] == [set(s) for s in order]
    assert read_json(longer)["packs"] < read_json(first)["packs"]


def test_steps_run_over_epochs_of_the_mixture(results):
    mixture = [{"dataset": "one", "percent": 50}, {"dataset": "two", "percent": 200}]
    path = token_data.plan(
        results, manifests(results), "mixed", mixture=mixture, steps=9, epochs=None
    )
    summary = read_json(path)
    assert summary["steps"] == 9 and summary["samples"] == 72
    assert summary["epochs"] == 2.0
    assert summary["shares"] == {
        "one": {"asked": 50, "got": 50.0, "available": 20, "taken": 10},
        "two": {"asked": 200, "got": 200.0, "available": 13, "taken": 26},
    }
    times = Counter(name for step in drawn(load(path), results) for name in step)
    assert {times[name] for name in times if name.startswith("one:")} == {2}
    assert {times[name] for name in times if name.startswith("two:")} == {4}
    assert sum(name.startswith("one:") for name in times) == 10


def test_too_long_samples_are_rejected_before_drawing(results):
    lengths = [
        length
        for manifest in manifests(results)
        for index in sorted(manifest.parent.glob("*.parquet"))
        for length in read_index(index)["length"].to_pylist()
    ]
    limit = sorted(lengths)[20]
    path = token_data.plan(results, manifests(results), "short", max_length=limit)
    summary = read_json(path)
    too_long = sum(length > limit for length in lengths)
    assert summary["samples"] + too_long == 33 and summary["reasons"] == {"too_long": too_long}
    rejects = list(read_jsonl(path.with_suffix(".rejects.jsonl")))
    assert len(rejects) == summary["rejected"] == too_long
    assert {reject["stage"] for reject in rejects} == {"plan"}
    assert not {f"{r['dataset']}:{r['row']}" for r in rejects} & {
        name for step in drawn(load(path), results) for name in step
    }
    with pytest.raises(DataError, match="no sample is left"):
        token_data.plan(results, manifests(results), "none", max_length=1)


def test_a_poisoned_shard_is_caught_by_the_plan(tmp_path):
    """A shard made by other code, with one placeholder too many in a sample."""
    folder = tmp_path / "results" / "tokens" / "d" / "t"
    made = rows(placeholders=3, length=28 + 12)
    members = write_shard(
        folder / "s.tar",
        [(row["key"], [(member["name"][3:], b"x") for member in row["members"]]) for row in made],
    )
    write_index(folder / "s.index.parquet", made, members, {})
    shard = {
        **file_entry(folder / "s.tar"),
        "index": "s.index.parquet",
        "index_sha256": sha256_file(folder / "s.index.parquet"),
        "samples": 3,
    }
    facts = dict.fromkeys(("family", "placeholder_ids", "tokenizer_sha256", "template_sha256"), 1)
    write_json(
        folder / "manifest.json",
        {"dataset": "d", "samples": {"kept": 3}, "shards": [shard], **facts},
    )
    path = token_data.plan(tmp_path / "results", [folder / "manifest.json"])
    assert read_json(path)["samples"] == 2
    [reject] = read_jsonl(path.with_suffix(".rejects.jsonl"))
    assert (reject["row"], reject["reason"]) == ("f#1", "placeholders")
    assert "placeholders 3" in reject["detail"]


def test_errors_name_what_is_wrong(results, tmp_path):
    one, two = manifests(results)
    with pytest.raises(ConfigError, match="train names"):
        token_data.plan(results, [one], mixture=[{"dataset": "two", "percent": 100}])
    with pytest.raises(ConfigError, match="either `steps` or `epochs`"):
        token_data.plan(results, [one], steps=3)
    other = token_data.tokenizer_folder(tmp_path, vocab_size=300)
    made = token_data.write_filtered(tmp_path, token_data.screens(3, "three"))
    with pytest.raises(ConfigError, match="tokenised for the same model"):
        token_data.plan(results, [one, token_data.tokenise(made, other)])
    path = token_data.plan(results, [one, two], "broken")
    with pytest.raises(DataError, match="steps 0 to 4, not 5"):
        samples_of_step(load(path), 5, results)
    path.with_suffix(".parquet").write_bytes(b"")
    with pytest.raises(DataError, match="plan again"):
        load(path)


def test_a_changed_index_is_refused(tmp_path):
    model = token_data.tokenizer_folder(tmp_path)
    made = token_data.screens(3)
    manifest = token_data.tokenise(token_data.write_filtered(tmp_path, made), model)
    path = token_data.plan(tmp_path, [manifest])
    index = next(manifest.parent.glob("*.parquet"))
    table = read_index(index)
    columns = [name for name in table.column_names if name != "members"]
    members = [[Member(**member) for member in entries] for entries in table["members"].to_pylist()]
    write_index(index, table.select(columns).to_pylist()[:3], members, {"changed": True})
    assert read_facts(index) == {"changed": True}
    with pytest.raises(DataError, match="changed since"):
        token_data.plan(tmp_path, [manifest], "again")
    with pytest.raises(DataError, match="changed since"):
        samples_of_step(load(path), 0, tmp_path)


@pytest.mark.parametrize("damage", [b"", b"PAR1 no parquet PAR1"])
def test_a_damaged_index_is_a_data_error(tmp_path, damage):
    path = tmp_path / "x.index.parquet"
    with pytest.raises(DataError, match="no such file"):
        read_index(path)
    path.write_bytes(damage)
    with pytest.raises(DataError, match="not a token index"):
        read_index(path)
    with pytest.raises(DataError, match="not a token index"):
        read_facts(path)
    pq.write_table(pa.table({"id": ["d:0"]}), path)
    with pytest.raises(DataError, match=r"not a token index.*answers"):
        read_index(path, ["id", "answers"])


@settings(max_examples=15)
@given(
    batch=st.integers(1, 12),
    seed=st.integers(0, 2**31),
    epochs=st.sampled_from([0.5, 1.0, 2.0]),
    max_length=st.integers(60, 400),
)
def test_every_kept_sample_is_drawn_equally_often(results, batch, seed, epochs, max_length):
    options = {"seed": seed, "epochs": epochs, "max_length": max_length}
    try:
        path = token_data.plan(
            results, manifests(results), "any", global_batch={"samples": batch}, **options
        )
    except DataError:
        assert max_length < 150
        return
    plan = load(path)
    assert plan.tokens.max() <= max_length
    kept = 33 - plan.summary["rejected"]
    times = Counter(zip(plan.shard.tolist(), plan.row.tolist(), strict=True))
    assert sum(times.values()) == max(1, round(epochs * kept)) == plan.summary["samples"]
    if epochs >= 1:
        assert set(times.values()) == {int(epochs)} and len(times) == kept
    assert json.loads(path.read_text())["steps"] == -(-sum(times.values()) // batch)
