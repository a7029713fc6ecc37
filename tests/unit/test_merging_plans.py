"""Plans of stages with token merging: what they count, what they cut, and the packs they make."""

from __future__ import annotations

from pathlib import Path

import merging_data
import pytest
import torch
from merging_data import LAYERS, RATIO, SHAPES, TOKENS, Data

import token_data
from shardline.errors import DataError
from shardline.estimate import estimate_stage
from shardline.families import llava
from shardline.files import read_json, read_jsonl
from shardline.labels import count_supervised
from shardline.merging_family import family_of_plan, family_of_stage
from shardline.plan_file import read_plan
from shardline.samples import Sample
from shardline.tasks import chat
from shardline.token_checks import planning_columns
from shardline.token_index import read_index
from shardline.token_reader import TokenReader
from shardline.training import gates
from shardline.training.packs import split, stock_losses, token_losses
from shardline.truncation import cut


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return merging_data.talks(tmp_path_factory.mktemp("talks"))


@pytest.fixture
def clips(tmp_path: Path, shared_data: Path) -> Data:
    return merging_data.clips(tmp_path, shared_data)


def test_a_plan_counts_what_the_tower_keeps(talks: Data) -> None:
    plan, plain = talks.plan(), talks.plan(None, "plain")
    again = plan.read_bytes(), plan.with_suffix(".parquet").read_bytes()
    talks.plan()
    assert (plan.read_bytes(), plan.with_suffix(".parquet").read_bytes()) == again
    kept = llava.kept_tokens(64, llava.Merging(0.3, LAYERS))
    assert kept == 64 - 3 * int(64 * 0.7 / 4) == 31
    found, stock = (read_plan(path, path.with_suffix(".parquet")) for path in (plan, plain))
    images = sum(len(sizes) for _, sizes in SHAPES) + 2
    merged = {"ratio": 0.3, "layers": LAYERS, "slowfast": False, "merged": 33 * images}
    assert found.summary["token_merging"] == merged and "token_merging" not in stock.summary
    assert found.summary["patches"] == stock.summary["patches"] == 64 * images
    assert stock.summary["tokens"] - found.summary["tokens"] == 33 * images
    assert found.summary["supervised_tokens"] == stock.summary["supervised_tokens"]
    rows = {}
    for place in (place for pack in range(len(found.tokens)) for place in found.samples(pack)):
        index = talks.results / found.summary["shards"][place.shard]["index"]
        row = rows.setdefault(index, read_index(index).to_pylist())[place.row]
        assert place.length == row["text_length"] + 30 * row["placeholders"]
        assert row["length"] == row["text_length"] + 63 * row["placeholders"]


def test_samples_that_fit_only_when_merged_are_taken(talks: Data) -> None:
    plain = read_json(talks.plan(None, "tight", max_length=160))
    merged = read_json(talks.plan(RATIO, "tight", max_length=160))
    assert plain["reasons"]["too_long"] > 0 and not merged["rejected"]
    with pytest.raises(DataError, match="no sample is left"):
        talks.plan(RATIO, "tight", max_length=3)
    rejects = talks.results / "plans/demo/tight.rejects.jsonl"
    assert any("of the length merged" in row["detail"] for row in read_jsonl(rejects))


def test_an_estimate_before_tokenising_counts_alike(talks: Data) -> None:
    plan = read_json(talks.plan(stage="counted"))
    converted = token_data.write_converted(
        talks.results, [*token_data.talks(SHAPES), merging_data.turns()]
    )
    options = token_data.plan_options([talks.manifest], family="llava", token_merging=RATIO)
    found = estimate_stage(
        {"talks": converted},
        options,
        family=family_of_stage(llava, options, talks.model),
        task=chat,
        tokens=TOKENS,
        tokenizer=llava.load_tokenizer(talks.model),
    )
    names = ("samples", "tokens", "patches", "steps")
    assert {name: found[name] for name in names} == {name: plan[name] for name in names}
    assert found["visual_tokens"] == plan["patches"] - plan["token_merging"]["merged"]


def test_answers_are_cut_where_the_merged_sample_is_too_long(talks: Data) -> None:
    """Against a cut of each sample's expanded arrays."""
    limits = range(40, 130, 6)
    cuts = 0
    for limit in limits:
        plan = talks.plan(RATIO, "cut", max_length=limit, too_long="truncate_answer")
        rule = family_of_plan(llava, read_json(plan))
        found = read_plan(plan, plan.with_suffix(".parquet"))
        shards = found.summary["shards"]
        reader = TokenReader(talks.results, shards)
        planned = {
            (place.shard, place.row): (place.length, place.cut)
            for pack in range(len(found.tokens))
            for place in found.samples(pack)
        }
        learned = 0
        placeholders = found.summary["placeholder_ids"]
        for number, shard in enumerate(shards):
            for row in range(read_index(talks.results / shard["index"]).num_rows):
                stored = reader.read(number, row)
                ids, labels = rule.expand(
                    stored.input_ids, stored.labels, stored.grids, placeholders
                )
                length, seen = len(ids), count_supervised(labels)
                if length > limit:
                    sample = Sample(id="a", dataset="d")
                    columns = planning_columns(sample, ids, labels, placeholders)
                    length, seen = cut(columns["answers"], columns["media_end"], limit)
                    cuts += length > 0
                expected = (length, len(ids) - length) if length else None
                assert planned.get((number, row)) == expected, (limit, stored.id)
                learned += seen
        assert found.summary["supervised_tokens"] == learned
        for step in range(found.steps):
            row = talks.data(plan).row(step, 0)
            assert row["max_length_q"] <= limit
    assert cuts > 20


def test_a_pack_is_what_its_samples_are_alone(talks: Data) -> None:
    plan = talks.plan(stage="packed", max_length=400)
    data = talks.data(plan)
    assert data.family.merging == llava.Merging(0.3, LAYERS)
    model = data.family.load_model(talks.model, torch.float32, "cpu").eval()
    shapes = set()
    for step in range(data.plan.steps):
        row = data.row(step, 0)
        samples = split(row, data.family)
        shapes |= {len(sample["media_types"]) for sample in samples}
        with torch.no_grad():
            alone = torch.cat([stock_losses(model, data.family, sample) for sample in samples])
            torch.testing.assert_close(token_losses(model, data.family, row), alone)
    assert shapes >= {0, 1, 2, 3}
    assert gates.packing_parity(model, data.family, samples[:4])["passed"]
    stock = llava.load_model(talks.model, torch.float32, "cpu")
    unmerged = split(talks.data(talks.plan(None, "stock", max_length=400))[0], llava)
    assert gates.packing_parity(stock, llava, unmerged[:4])["passed"]


def test_a_videos_first_frame_stays_whole_from_the_plan_to_the_loss(clips: Data) -> None:
    merging = {"ratio": 0.3, "slowfast": True}
    plan = clips.plan(merging, max_length=2000)
    data = clips.data(plan)
    model = data.family.load_model(clips.model, torch.float32, "cpu").eval()
    row = data[0]
    frames = row["image_grid_thw"][:, 0].tolist()
    assert min(frames) > 1
    visual = int((row["mm_token_type_ids"] > 0).sum())
    assert visual == sum(64 + 31 * (count - 1) for count in frames)
    with torch.no_grad():
        losses = [token_losses(model, data.family, row) for _ in range(2)]
        alone = [stock_losses(model, data.family, part) for part in split(row, data.family)]
    assert torch.equal(*losses)
    torch.testing.assert_close(losses[0], torch.cat(alone))
    fast = clips.plan({**merging, "slowfast": False}, "fast", max_length=2000)
    assert read_json(fast)["tokens"] == read_json(plan)["tokens"] - 33 * len(frames)
