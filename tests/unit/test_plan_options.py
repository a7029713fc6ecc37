"""What a stage may ask of its plan: ways of packing, shares, splits, cuts, and what stops it."""

from collections import Counter
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import token_data
from shardline.errors import DataError, GateError
from shardline.families import qwen2_vl
from shardline.files import read_json, read_jsonl, write_json
from shardline.held_out import held_out
from shardline.loader import PlanDataset
from shardline.mixture import apportion_mixture
from shardline.plan_file import read_plan, samples_of_step
from shardline.samples import Box
from shardline.token_index import read_index
from shardline.truncation import cut


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Two tokenised datasets; three samples of `one` are a group and a given pack."""
    folder = tmp_path_factory.mktemp("options") / "results"
    model = token_data.tokenizer_folder(folder)
    for dataset, count in (("one", 30), ("two", 13)):
        made = token_data.screens(count, dataset)
        for number, (sample, _) in enumerate(made):
            sample.group = f"g{number // 3}" if dataset == "one" else ""
            sample.meta["pack"] = f"rows.json#{number // 3}"
        token_data.tokenise(token_data.write_filtered(folder, made), model)
    return folder


def manifests(results):
    return [results / "tokens" / name / "tiny" / "manifest.json" for name in ("one", "two")]


def plan(results, stage="sft", **changes):
    path = token_data.plan(results, manifests(results), stage, **changes)
    return path, read_plan(path, path.with_suffix(".parquet"))


def drawn(found, results):
    return [
        sample for step in range(found.steps) for sample in samples_of_step(found, step, results)
    ]


def names(found, results):
    return Counter(sample["id"] for sample in drawn(found, results))


def lengths_of(results):
    return {
        row["id"]: row["length"]
        for manifest in manifests(results)
        for index in sorted(manifest.parent.glob("*.parquet"))
        for row in read_index(index, ["id", "length"]).to_pylist()
    }


def test_global_packing_reports_what_a_step_has(results):
    changes = {"global_batch": {"tokens": 1024}, "epochs": 2.0}
    path, found = plan(results, **changes)
    summary = read_json(path)
    assert set(names(found, results).values()) == {2} and len(names(found, results)) == 43
    assert summary["packing"] == "global" and summary["max_packs_per_step"] == 4
    per_step = Counter(np.repeat(range(found.steps), np.diff(found.pack_starts[found.step_starts])))
    assert summary["samples_per_step"] == {
        "min": min(per_step.values()),
        "mean": round(86 / found.steps, 3),
        "max": max(per_step.values()),
    }
    assert set(summary["predicted_imbalance"]) == {"2", "4", "8"}
    assert sum(summary["histogram"]["counts"]) == 86
    before = token_data.files_under(path.parent)
    plan(results, **changes)
    assert token_data.files_under(path.parent) == before


@pytest.mark.parametrize("changes", [{"global_batch": {"tokens": 1280}}, {"packing": "flatten"}])
@pytest.mark.parametrize(("ranks", "micro_batch"), [(1, 1), (2, 2), (3, 1), (5, 3)])
def test_a_step_is_the_same_on_any_ranks_and_at_any_start(results, changes, ranks, micro_batch):
    path, found = plan(results, "ranks", epochs=2.0, **changes)
    size = {"ranks": ranks, "micro_batch": micro_batch}
    parts = [
        PlanDataset(results, path, path.with_suffix(".parquet"), qwen2_vl, rank=rank, **size)
        for rank in range(ranks)
    ]
    for step in reversed(range(found.steps)):
        start = step * parts[0].accumulation
        rows = [part[start + micro] for micro in range(parts[0].accumulation) for part in parts]
        names = [name for row in rows for name in row["samples"]]
        assert names == [sample["id"] for sample in samples_of_step(found, step, results)]
        supervised = sum(int((row["labels"] != -100).sum()) for row in rows)
        assert supervised == found.supervised_of(step)


@pytest.mark.parametrize("packing", ["flatten", "none"])
def test_flatten_and_none_draw_as_step_does(results, packing):
    _, packed = plan(results, "step", seed=2)
    _, single = plan(results, packing, seed=2, packing=packing, length_grouped=True)
    assert (np.diff(single.pack_starts) == 1).all() and packed.steps == single.steps
    for step in range(packed.steps):
        one, other = (samples_of_step(found, step, results) for found in (packed, single))
        assert {sample["id"] for sample in one} == {sample["id"] for sample in other}
        own = [sample["length"] for sample in other]
        assert own == sorted(own, reverse=True)


def test_given_packs_stay_together(results):
    path, found = plan(results, packing="given", global_batch={"tokens": 4096}, max_length=1024)
    numbers = {
        (sample["shard"], sample["row"]): int(sample["id"].partition("#")[2]) // 3
        for sample in drawn(found, results)
    }
    paths = [shard["path"] for shard in found.summary["shards"]]
    for pack in range(len(found.tokens)):
        own = [numbers[paths[place.shard], place.row] for place in found.samples(pack)]
        assert len(set(own)) == 1 and len(own) in (1, 3)
    assert read_json(path)["packs"] == 15 and set(names(found, results).values()) == {1}
    share = [{"dataset": "one", "samples": 4}, {"dataset": "two", "percent": 40}]
    path, found = plan(
        results, packing="given", global_batch={"tokens": 4096}, max_length=1024, mixture=share
    )
    assert read_json(path)["shares"]["one"] == {
        "asked": "#4", "got": 40.0, "available": 10, "taken": 4,
    }  # fmt: skip
    groups = Counter(
        int(name.partition("#")[2]) // 3 for name in names(found, results) if "one" in name
    )
    assert set(groups.values()) == {3} and len(groups) == 4


def test_shares_by_number_are_exact_and_recorded(results):
    mixture = [{"dataset": "one", "samples": 17}, {"dataset": "two", "samples": 31}]
    path, found = plan(results, mixture=mixture)
    summary = read_json(path)
    times = names(found, results)
    assert Counter(name[:3] for name in times.elements()) == {"one": 17, "two": 31}
    assert sorted(times[name] for name in times if name[:3] == "two") == [2] * 8 + [3] * 5
    assert summary["shares"]["two"]["asked"] == "#31"
    ids = sorted(
        (name for name in times if name[:3] == "one"), key=lambda name: int(name.partition("#")[2])
    )
    text = "".join(f"{name}\n" for name in ids)
    assert summary["chosen_sha256"]["one"] == sha256(text.encode()).hexdigest()


@given(
    st.lists(
        st.tuples(st.integers(1, 500), st.booleans(), st.integers(1, 300)), min_size=1, max_size=6
    )
)
def test_numbers_are_exact_beside_shares(entries):
    mixture = [
        {"dataset": f"d{place}", "samples" if exact else "percent": asked}
        for place, (_, exact, asked) in enumerate(entries)
    ]
    taken = apportion_mixture([count for count, _, _ in entries], mixture)
    for number, (count, exact, asked) in zip(taken, entries, strict=True):
        assert number == asked if exact else abs(number - count * asked / 100) < 1


def test_a_number_of_nothing_is_an_error(results):
    mixture = [{"dataset": "one", "samples": 5}, {"dataset": "two", "percent": 100}]
    lengths = [length for name, length in lengths_of(results).items() if name.startswith("one")]
    with pytest.raises(DataError, match="one#5: no sample of it is left"):
        plan(results, mixture=mixture, max_length=min(lengths) - 1)


@pytest.mark.parametrize("by", ["group", "sample"])
def test_what_is_held_out_is_never_trained(results, by):
    split = {"validation": 30.0, "by": by}
    path, train = plan(results, split=split, epochs=3.0)
    other, held = plan(results, "sft.validation", split=split, part="validation")
    seen, kept = names(train, results), names(held, results)
    assert not set(seen) & set(kept) and set(seen) | set(kept) == set(lengths_of(results))
    assert set(seen.values()) == {3} and set(kept.values()) == {1}
    summary = read_json(path)
    assert summary["split"]["held_out"] == Counter(name[:3] for name in kept)
    assert read_json(other)["split"] == summary["split"]
    assert (summary["part"], read_json(other)["part"]) == ("train", "validation")
    if by == "group":
        groups = [
            {int(n.partition("#")[2]) // 3 for n in part if "one" in n} for part in (seen, kept)
        ]
        assert not groups[0] & groups[1] and all(groups)
    shorter = sorted(lengths_of(results).values())[20]
    _, again = plan(results, split=split, max_length=shorter)
    assert not set(names(again, results)) & set(kept)


@given(st.integers(0, 3), st.sampled_from([5.0, 25.0, 60.0]))
def test_a_grown_dataset_moves_no_group(seed, percent):
    groups = [f"g{number // 2}" for number in range(2000)]
    ids = [f"d:{number}" for number in range(2000)]
    held = held_out(groups, ids, percent, seed, "d")
    assert abs(held.mean() - percent / 100) < 0.06
    assert (held[::2] == held[1::2]).all()
    assert (held_out(groups[500:], ids[500:], percent, seed, "d") == held[500:]).all()
    assert held_out([""] * 2000, ids, percent, seed, "d")[:2000:2].sum() > 0


def test_samples_that_are_too_long_are_cut_in_an_answer(results):
    lengths = lengths_of(results)
    limit = sorted(lengths.values())[-12]
    path, whole = plan(results, "whole", max_length=512)
    path, found = plan(results, "cut", max_length=limit, too_long="truncate_answer")
    summary = read_json(path)
    kept = {sample["id"]: sample["length"] for sample in drawn(found, results)}
    cuts = {name for name, length in kept.items() if length < lengths[name]}
    long = {name for name, length in lengths.items() if length > limit}
    assert cuts == {name for name in long if name in kept} and cuts
    assert summary["truncated"] == {
        "samples": len(cuts),
        "tokens": sum(lengths[name] - kept[name] for name in cuts),
    }
    refused = {
        row["dataset"] + ":" + row["row"] for row in read_jsonl(path.with_suffix(".rejects.jsonl"))
    }
    assert refused == long - cuts
    rows = {}
    for name, planned in (("whole", whole), ("cut", found)):
        folder = path.parent / f"{name}.json"
        data = PlanDataset(results, folder, folder.with_suffix(".parquet"), qwen2_vl)
        for step in range(planned.steps):
            total = 0
            for micro in range(len(planned.packs(step))):
                row = data.row(step, micro)
                total += int((row["labels"] != -100).sum())
                bounds = row["cu_seq_lens_q"].tolist()
                grids = iter(row["image_grid_thw"].tolist())
                for number, sample in enumerate(row["samples"]):
                    part = slice(bounds[number], bounds[number + 1])
                    fields = ("input_ids", "labels", "position_ids")
                    rows[name, sample] = [row[field][..., part].numpy() for field in fields]
                    tokens = (row["input_ids"][0, part] == data.placeholders[0]).sum()
                    assert tokens == qwen2_vl.visual_tokens(next(grids))
            assert total == row["loss_denominator"] == planned.supervised_of(step)
    for name, length in kept.items():
        for short, long_one in zip(rows["cut", name], rows["whole", name], strict=True):
            assert short.shape[-1] == length <= limit
            assert np.array_equal(short, long_one[..., :length])
        labels = rows["cut", name][1][0]
        assert (labels != -100).any() and (name not in cuts or labels[-1] != -100)


@given(
    st.lists(st.integers(1, 9), min_size=2, max_size=12).filter(lambda edges: len(edges) % 2 == 0),
    st.integers(0, 30),
    st.integers(1, 80),
)
def test_a_cut_ends_in_an_answer_behind_all_media(gaps, media_end, limit):
    answers = np.cumsum(gaps).tolist()
    length = answers[-1] + 2
    media_end = min(media_end, length)
    kept, learned = cut(answers, media_end, limit)
    supervised = np.zeros(length, dtype=bool)
    for start, end in zip(answers[::2], answers[1::2], strict=True):
        supervised[start:end] = True
    if not kept:
        inside = np.flatnonzero(supervised[:limit])
        assert not len(inside) or inside[-1] + 1 < media_end
        return
    assert media_end <= kept <= limit and supervised[kept - 1]
    assert learned == supervised[1:kept].sum() >= 1 and not supervised[kept:limit].any()


def test_packs_keep_the_patch_budget_and_a_sample_over_it_is_refused(results):
    patches = [
        row
        for manifest in manifests(results)
        for index in manifest.parent.glob("*.parquet")
        for row in read_index(index)["patches"].to_pylist()
    ]
    budget = sorted(patches)[-4]
    for batch in ({"samples": 8}, {"tokens": 2048}):
        path, found = plan(results, max_patches=budget, global_batch=batch, max_length=512)
        assert found.patches.max() <= budget
        over = sum(value > budget for value in patches)
        assert read_json(path)["reasons"] == {"too_many_patches": over} and over


def test_the_run_stops_or_goes_on_as_the_recipe_says(tmp_path):
    made = token_data.screens(20)
    made[3][0].boxes = [Box(label="click <|im_end|> here", xyxy=[0, 0, 9, 9])]
    made[4][0].boxes = []
    filtered = token_data.write_filtered(tmp_path, made)
    manifest = token_data.tokenise(filtered, token_data.tokenizer_folder(tmp_path))
    rejects = {row["row"]: row["reason"] for row in read_jsonl(manifest.parent / "rejects.jsonl")}
    assert rejects == {"annotations.json#3": "special_token", "annotations.json#4": "no_supervised"}
    path = token_data.plan(tmp_path, [manifest], max_reject_share=0.1)
    assert read_json(path)["samples"] == 18
    with pytest.raises(GateError, match=r"screens: 2 of 20 .*0\.09 allows 1: .*max_reject_share"):
        token_data.plan(tmp_path, [manifest], max_reject_share=0.09)
    longest = max(
        read_index(p)["length"].to_numpy().max() for p in manifest.parent.glob("*.parquet")
    )
    path = token_data.plan(tmp_path, [manifest], max_reject_share=0.1, max_length=int(longest) - 1)
    assert read_json(path)["reasons"]["too_long"] >= 1


def test_padded_and_fixed_rows_hold_the_same_samples(results):
    plan(results, "plain", packing="flatten")
    folder = results / "plans/demo"
    plan(results, "padded", packing="none")
    plan(results, "fixed", fixed_shape=True, max_length=512)
    flat, padded = (
        PlanDataset(
            results, folder / f"{name}.json", folder / f"{name}.parquet", qwen2_vl, micro_batch=3
        )
        for name in ("plain", "padded")
    )
    assert len(flat) == len(padded)
    for item in range(len(flat)):
        one, other = flat[item], padded[item]
        lengths = one["cu_seq_lens_q"].diff().tolist()
        assert other["cu_seq_lens_q"].diff().tolist() == [max(lengths)] * len(lengths)
        assert other["max_length_q"] == max(lengths) and other["samples"] == one["samples"]
        at = 0
        for number, length in enumerate(lengths):
            start = number * max(lengths)
            for name in ("input_ids", "labels", "mm_token_type_ids", "position_ids"):
                expected = one[name][..., at : at + length]
                assert (other[name][..., start : start + length] == expected).all()
            rest = slice(start + length, start + max(lengths))
            assert (other["labels"][0, rest] == -100).all()
            assert (other["position_ids"][:, 0, rest].diff() == 1).all()
            assert not other["mm_token_type_ids"][0, rest].any()
            at += length
        assert other["loss_denominator"] == one["loss_denominator"]
    fixed = PlanDataset(results, folder / "fixed.json", folder / "fixed.parquet", qwen2_vl)
    for row in (fixed[item] for item in range(len(fixed))):
        assert row["input_ids"].shape == row["labels"].shape == (1, 512)
        assert row["position_ids"].shape == (4, 1, 512) and row["cu_seq_lens_k"][-1] == 512
        assert len(row["cu_seq_lens_q"]) <= len(row["samples"] or [0]) + 2


def empty_manifest(results):
    """The token manifest of a dataset of which filters left nothing."""
    source = manifests(results)[0]
    path = results / "tokens" / "nothing" / "tiny" / "manifest.json"
    counts = {"in": 0, "kept": 0, "rejected": 0}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {**read_json(source), "dataset": "nothing", "samples": counts, "shards": []})
    return path


def test_a_dataset_of_which_nothing_is_left_is_told(results, capsys):
    both = [manifests(results)[1], empty_manifest(results)]
    summary = read_json(token_data.plan(results, both, "mixed"))
    assert summary["shares"]["nothing"] == {
        "asked": 100, "got": 0.0, "available": 0, "taken": 0
    }  # fmt: skip
    assert summary["distinct_samples"] == 13
    assert (
        "train: nothing: no sample of it is left; mixed goes on without it (0 refused, 0 held out)"
        in capsys.readouterr().err
    )
    with pytest.raises(DataError, match=r"train: nothing: no sample is left to plan with"):
        token_data.plan(results, both[1:], "alone")


def test_a_split_that_holds_nothing_out_is_an_error(results):
    split = {"validation": 0.001, "by": "sample"}
    with pytest.raises(DataError, match=r"split: one, two: none of 43 samples .* a larger share"):
        plan(results, "sft.validation", split=split, part="validation")
