"""The plan-driven loader: the same step whatever the hardware, exact resume, checked reads."""

import os

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import token_data
from shardline import token_reader
from shardline.errors import ConfigError, DataError
from shardline.families import qwen2_vl as family
from shardline.hardware import Hardware
from shardline.loader import PlanDataset
from shardline.plan_file import read_plan, samples_of_step
from shardline.token_index import read_index
from shardline.token_reader import TokenReader
from shardline.tokenising import IMAGE_SUFFIX
from shardline.training.rows import rows_from


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    results = tmp_path_factory.mktemp("loader") / "results"
    made = token_data.screens(30)
    manifest = token_data.tokenise(
        token_data.write_filtered(results, made), token_data.tokenizer_folder(results)
    )
    return results, token_data.plan(results, [manifest], epochs=2.0, max_length=200)


def dataset(planned, **options):
    results, plan = planned
    return PlanDataset(results, plan, plan.with_suffix(".parquet"), family, **options)


def rows_of(data, step=0, workers=0):
    return list(rows_from(data, step, Hardware(name="test", workers=workers)))


def same(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        if isinstance(value, torch.Tensor):
            assert value.dtype == other[key].dtype and torch.equal(value, other[key]), key
        elif key == "images":
            assert all(map(torch.equal, value, other[key])) and len(value) == len(other[key])
        else:
            assert value == other[key], key


def test_a_row_is_the_samples_of_its_pack_side_by_side(planned):
    data = dataset(planned)
    for step in range(data.plan.steps):
        packs = data.plan.packs(step)
        for micro, pack in enumerate(packs):
            row = data.row(step, micro)
            total = int(data.plan.tokens[pack])
            for key in ("input_ids", "labels", "mm_token_type_ids"):
                assert row[key].shape == (1, total) and row[key].dtype == torch.int64
            assert row["position_ids"].shape == (4, 1, total)
            bounds = row["cu_seq_lens_q"].tolist()
            assert row["cu_seq_lens_q"].dtype == torch.int32 and bounds[-1] == total
            assert np.diff(bounds).tolist() == [place.length for place in data.plan.samples(pack)]
            assert row["max_length_k"] == max(np.diff(bounds))
            assert len(row["samples"]) == len(row["images"]) == len(bounds) - 1
            media = iter(row["image_grid_thw"].tolist())
            for begin, end, picture in zip(bounds[:-1], bounds[1:], row["images"], strict=True):
                ids = row["input_ids"][0, begin:end].numpy()
                grid = tuple(next(media))
                assert picture.shape == (grid[1] * 14, grid[2] * 14, 3)
                assert picture.dtype == torch.uint8
                positions = row["position_ids"][:, 0, begin:end].numpy()
                assert (positions[0] == np.arange(end - begin)).all()
                assert (positions[1:] == family.positions(ids, [grid], data.placeholders)).all()
                assert row["labels"][0, begin] == -100
            assert (row["mm_token_type_ids"] == (row["input_ids"] == data.placeholders[0])).all()
            supervised = (row["labels"] != -100).sum().item()
            assert supervised == data.plan.supervised[pack]
        assert row["loss_denominator"] == data.plan.supervised_of(step)


@pytest.mark.parametrize(("ranks", "micro_batch"), [(1, 1), (2, 1), (3, 2), (1, 4)])
def test_a_step_is_the_same_on_any_number_of_ranks(planned, ranks, micro_batch):
    results, plan = planned
    parts = [
        dataset(planned, rank=rank, ranks=ranks, micro_batch=micro_batch) for rank in range(ranks)
    ]
    known = read_plan(plan, plan.with_suffix(".parquet"))
    for step in range(known.steps):
        rows = [part.row(step, micro) for micro in range(parts[0].accumulation) for part in parts]
        names = [name for row in rows for name in row["samples"]]
        assert names == [sample["id"] for sample in samples_of_step(known, step, results)]
        supervised = sum((row["labels"] != -100).sum().item() for row in rows)
        assert supervised == rows[0]["loss_denominator"] == known.supervised_of(step)
        assert all(row["step"] == step and row["input_ids"].numel() for row in rows)


def test_a_row_left_over_has_a_sample_but_no_loss(planned):
    data = dataset(planned, accumulation=9)
    row = data.row(0, 8)
    assert row["samples"] == [] and (row["labels"] == -100).all()
    assert len(row["images"]) == 1 and row["loss_denominator"] > 0
    shortest = min(p.length for pack in data.plan.packs(0) for p in data.plan.samples(pack))
    assert row["input_ids"].shape == (1, shortest)


@pytest.mark.parametrize("workers", [0, 2])
def test_going_on_at_any_step_gives_the_same_rows(planned, workers):
    whole = rows_of(dataset(planned))
    starts = range(dataset(planned).plan.steps) if not workers else (0, 3)
    for step in starts:
        data = dataset(planned)
        rest = rows_of(data, step, workers)
        for one, other in zip(rest, whole[step * data.accumulation :], strict=True):
            same(one, other)


def test_an_accumulation_too_small_for_the_fullest_step_is_refused(planned):
    needed = dataset(planned).accumulation
    assert needed > 1 and dataset(planned, ranks=2).accumulation == -(-needed // 2)
    with pytest.raises(ConfigError, match=f"need an accumulation of {needed}"):
        dataset(planned, accumulation=needed - 1)
    with pytest.raises(IndexError):
        dataset(planned)[len(dataset(planned))]


def test_samples_of_a_step_lead_back_to_shards_and_rows(planned):
    results, plan = planned
    known = read_plan(plan, plan.with_suffix(".parquet"))
    for sample in samples_of_step(known, 1, results):
        index = results / sample["shard"].replace(".tar", ".index.parquet")
        row = read_index(index).slice(sample["row"], 1).to_pylist()[0]
        assert row["id"] == sample["id"] and row["length"] == sample["length"]
        assert sample["dataset"] == "screens"


@pytest.fixture
def copied(planned, tmp_path):
    """A copy of the shards that a test may damage."""
    import shutil

    results, plan = planned
    shutil.copytree(results, tmp_path / "results")
    return tmp_path / "results", tmp_path / "results" / plan.relative_to(results)


def first_tar(data):
    place = data.plan.samples(0)[0]
    return place, data.reader.results / data.plan.summary["shards"][place.shard]["path"]


def damage(data, place, suffix, part):
    """Overwrite part of a member with ones."""
    offset, size = data.reader._index(place.shard).places(place.row)[suffix]
    tar = data.reader.results / data.plan.summary["shards"][place.shard]["path"]
    raw = bytearray(tar.read_bytes())
    touched = range(offset, offset + size)[part]
    raw[touched.start : touched.stop] = b"\xff" * len(touched)
    tar.chmod(0o644)
    tar.write_bytes(raw)


def test_a_read_that_fails_is_tried_three_times(copied, monkeypatch):
    waits, calls = [], []
    monkeypatch.setattr(token_reader.time, "sleep", waits.append)
    read = os.pread

    def failing(times):
        def pread(*arguments):
            calls.append(arguments)
            if len(calls) <= times:
                raise OSError(5, "Input/output error")
            return read(*arguments)

        calls.clear()
        return pread

    monkeypatch.setattr(token_reader.os, "pread", failing(2))
    expected = dataset(copied)[0]
    assert waits == [0.2, 0.4]
    monkeypatch.setattr(token_reader.os, "pread", read)
    same(dataset(copied)[0], expected)
    data = dataset(copied)
    place, tar = first_tar(data)
    name = sample_name(data, place)
    monkeypatch.setattr(token_reader.os, "pread", failing(99))
    with pytest.raises(DataError, match=f"{tar.name}: sample {name} .*3 attempts.*Input/output"):
        data[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_moments_of_a_disk_change_no_row(planned, monkeypatch, workers):
    """Some reads fail, some are short; loader processes are forks, so theirs are too."""
    expected = rows_of(dataset(planned))
    read, calls = os.pread, []

    def pread(*arguments):
        calls.append(arguments)
        if len(calls) % 7 == 0:
            raise OSError(5, "Input/output error")
        return read(*arguments)[: None if len(calls) % 11 else 5]

    monkeypatch.setattr(token_reader, "WAIT", 0)
    monkeypatch.setattr(token_reader.os, "pread", pread)
    for one, other in zip(rows_of(dataset(planned), 0, workers), expected, strict=True):
        same(one, other)
    assert workers or len(calls) > len(expected)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_row_that_cannot_be_read_ends_the_order_at_its_turn(copied, monkeypatch, workers):
    """What comes before it is given, no other sample in its place, and nothing after it."""
    monkeypatch.setattr(token_reader, "WAIT", 0)
    data = dataset(copied)
    whole = rows_of(data)
    broken = len(whole) // 2
    place = data.plan.samples(data.plan.packs(broken // data.accumulation)[0])[-1]
    name = sample_name(data, place)
    first = min(number for number, row in enumerate(whole) if name in row["samples"])
    damage(data, place, "input_ids.npy", slice(0, 8))
    found = []
    with pytest.raises(DataError) as caught:
        for row in rows_from(dataset(copied), 0, Hardware(name="test", workers=workers)):
            found.append(row)
    for one, other in zip(found, whole[:first], strict=True):
        same(one, other)
    assert f"sample {name} (row {place.row}) cannot be read after 3 attempts" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_index_is_named_by_shard_and_row(copied, monkeypatch):
    monkeypatch.setattr(token_reader, "WAIT", 0)
    data = dataset(copied)
    place, tar = first_tar(data)
    tar.with_suffix(".index.parquet").unlink()
    with pytest.raises(DataError, match=rf"{tar.name}: row {place.row} cannot .*No such file"):
        data[0]


def test_a_shard_of_another_size_is_refused(copied):
    data = dataset(copied)
    _, tar = first_tar(data)
    tar.chmod(0o644)
    with open(tar, "ab") as file:
        file.write(b"\0" * 512)
    with pytest.raises(DataError, match=f"{tar.name}: has .* the plan knows"):
        data[0]


@pytest.mark.parametrize("suffix", [f"0.{IMAGE_SUFFIX}", "labels.npy"])
def test_damaged_bytes_are_named_by_shard_and_sample(copied, monkeypatch, suffix):
    monkeypatch.setattr(token_reader.time, "sleep", lambda seconds: None)
    data = dataset(copied)
    place, tar = first_tar(data)
    damage(data, place, suffix, slice(None))
    with pytest.raises(DataError, match=rf"{tar.name}: sample screens:annotations.json#\d+ "):
        data[0]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_bytes_are_damaged_the_error_names_the_sample(copied, drawn):
    """A read gives a sample of the planned shape, or a DataError: nothing else is ever raised."""
    data = dataset(copied)
    place, tar = first_tar(data)
    whole = tar.read_bytes()
    places = data.reader._index(place.shard).places(place.row)
    suffix = drawn.draw(st.sampled_from(sorted(places.keys() - {"json"})))
    offset, size = places[suffix]
    start = drawn.draw(st.integers(0, min(size, 160) - 1))
    bytes_put = drawn.draw(st.binary(min_size=1, max_size=size - start))
    at = offset + start
    tar.chmod(0o644)
    tar.write_bytes(whole[:at] + bytes_put + whole[at + len(bytes_put) :])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(token_reader, "WAIT", 0)
        try:
            sample = data.reader.read(place.shard, place.row)
            assert sample.input_ids.shape == sample.labels.shape
        except DataError as error:
            assert f"{tar.name}: sample {sample_name(data, place)} " in str(error)
        finally:
            tar.write_bytes(whole)


def sample_name(data, place):
    return data.reader._index(place.shard).ids[place.row].as_py()


def test_tokens_other_than_planned_are_named(copied):
    data = dataset(copied)
    place, tar = first_tar(data)
    offset, size = data.reader._index(place.shard).places(place.row)["input_ids.npy"]
    raw = bytearray(tar.read_bytes())
    raw[offset + 128 : offset + size] = bytes(size - 128)  # no placeholder any more
    tar.chmod(0o644)
    tar.write_bytes(raw)
    with pytest.raises(DataError, match=r"sample screens:.*: 0 placeholders for 1 media"):
        data[0]


def test_few_files_stay_open_and_none_travel(planned, monkeypatch):
    import pickle

    monkeypatch.setattr(token_reader, "OPEN_SHARDS", 2)
    data = dataset(planned)
    rows = rows_of(data)
    assert len(data.reader._files) == 2
    copy = pickle.loads(pickle.dumps(data.reader))
    assert isinstance(copy, TokenReader) and not copy._files
    data.reader.close()
    assert not data.reader._files
    same(data[0], rows[0])
