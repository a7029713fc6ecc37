"""Features of a frozen vision tower: what a model learns from them is what pictures teach it."""

from __future__ import annotations

import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
import tiny_families
import tiny_models
import torch
import webdataset
from test_families import OPTIONS, SQUARE, tokenised
from tiny_project import FROZEN, FULL, LORA, lock_model

import token_data
from feature_data import compute
from real_samples import convert
from shardline.errors import DataError
from shardline.families import qwen2_vl
from shardline.features import FeatureReader
from shardline.files import read_json, write_json
from shardline.loader import PlanDataset
from shardline.row_padding import pad_row, pad_samples
from shardline.samples import Sample
from shardline.training import gates
from shardline.training.packs import join, split, token_losses
from shardline.training.tuning import apply_tuning
from shardline.vision_features import VisionTower, take_features
from token_data import files_under

CASES: dict[str, Case] = {}
FAMILIES = ("qwen2_vl", "qwen2_5_vl", "llava")
POINTS = ("tower", "projected")
TUNES = {
    "tower": {"llm": FULL, "projector": FULL, "vision": FROZEN},
    "projected": {"llm": FULL, "projector": FROZEN, "vision": FROZEN},
}
BF16 = 0.02  # of a token's loss of 4 to 7: bfloat16 rounds each feature by up to 1 in 256
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


class Case:
    """A family's tiny model, and real samples of all media as tokens and a plan."""

    def __init__(self, name: str, work: Path, samples: list[list[Sample]]) -> None:
        self.name = name
        self.family = tiny_families.FAMILIES[name]
        self.results = work / name
        changes = {"vision_config": SQUARE} if name == "llava" else {}
        self.model = tiny_families.build(name, self.results / "raw/models" / name, **changes)
        lock_model(self.model)
        options = {**OPTIONS, "max_visual_tokens": 64, "seed": 0}
        self.tokens = [tokenised(part, work, name, self.model, options) for part in samples]
        self.plan = token_data.plan(
            self.results, self.tokens, family=name, global_batch={"samples": 30}, max_length=1200
        )
        self._features = {}
        self.rows = {}

    def features(self, point: str) -> list[Path]:
        """Manifests, computed once."""
        if point not in self._features:
            self._features[point] = [
                compute(tokens, self.model, family=self.name, point=point) for tokens in self.tokens
            ]
        return self._features[point]

    def data(self, **options) -> PlanDataset:
        parquet = self.plan.with_suffix(".parquet")
        return PlanDataset(self.results, self.plan, parquet, self.family, **options)

    def load(self, point: str | None = None, tune: dict | None = None) -> torch.nn.Module:
        """The model in fp32; with a point it takes features."""
        model = self.family.load_model(self.model, torch.float32, "cpu")
        if point:
            take_features(model, self.family, point)
        torch.manual_seed(0)
        return apply_tuning(model, self.family, tune) if tune else model


@pytest.fixture(params=FAMILIES)
def case(request, tmp_path_factory, shared_data):
    """One for all tests of a family."""
    cases = request.module.CASES
    if request.param not in cases:
        work = tmp_path_factory.mktemp(request.param)
        samples = [
            convert(shared_data / folder, work, name, format="qwenvl")[:9]
            for name, folder in (("mllm", "llama_factory_mllm_demo"), ("swift", "ms_swift_rows"))
        ]
        cases[request.param] = Case(request.param, work, samples)
    return cases[request.param]


def rows_of(case: Case, point: str) -> list[tuple[dict, dict, dict]]:
    """Each row with its images, with fp32 features of them, and with those that are stored."""
    if point in case.rows:
        return case.rows[point]
    tower = VisionTower(case.load(), case.family, point, "fp32")
    plain, stored = case.data(), case.data(features=case.features(point))
    assert len(plain) == len(stored) and len(plain.plan.packs(0)) > 1
    found = []
    for item in range(len(plain)):
        row, packed = plain[item], stored[item]
        exact = dict(row)
        images = exact.pop("images")
        assert "images" not in packed
        assert packed.keys() - {"features"} == exact.keys()
        exact["features"] = tower(images, row["image_grid_thw"].tolist()) if images else []
        for now, then in zip(exact["features"], packed["features"], strict=True):
            assert then.dtype == torch.bfloat16 and now.shape == then.shape
            torch.testing.assert_close(then.float(), now, rtol=2**-8, atol=1e-5)
        found.append((row, exact, packed))
    types = [set(row["media_types"]) for row, _, _ in found]
    assert set().union(*types) >= ({1} if case.name == "llava" else {1, 2})
    case.rows[point] = found
    return found


def assert_equal(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {
        name: parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


@pytest.mark.parametrize("point", POINTS)
def test_losses_and_gradients_are_those_of_the_pictures(case, point):
    model, taking = case.load(tune=TUNES[point]), case.load(point, tune=TUNES[point])
    for row, exact, stored in rows_of(case, point):
        expected = token_losses(model, case.family, row)
        found = token_losses(taking, case.family, exact)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        expected.sum().backward()
        found.sum().backward()
        with torch.no_grad():
            rounded = token_losses(taking, case.family, stored)
        torch.testing.assert_close(rounded, expected, rtol=0, atol=BF16)
    expected, found = gradients(model), gradients(taking)
    assert expected.keys() == found.keys()
    modules = {case.family.module_of(name) for name in found}
    assert modules == ({"llm", "projector"} if point == "tower" else {"llm"})
    for name, gradient in expected.items():
        assert (gradient - found[name]).norm() <= 1e-4 * gradient.norm() + 1e-6, name


@pytest.mark.parametrize("point", POINTS)
def test_in_bf16_the_stored_bits_are_those_of_the_forward(case, point):
    options = {"family": case.name, "point": point, "precision": "bf16"}
    manifests = [
        compute(tokens, case.model, **options, name=f"{point}-bf16") for tokens in case.tokens
    ]
    plain, stored = case.data()[0], case.data(features=manifests)[0]
    model, taking = (case.family.load_model(case.model, torch.bfloat16, "cpu") for _ in range(2))
    take_features(taking, case.family, point)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = token_losses(model, case.family, plain)
        found = token_losses(taking, case.family, stored)
    torch.testing.assert_close(found, expected, rtol=0, atol=2 * BF16)


def test_adapters_checkpointing_padding_and_gates_work_with_features(case):
    tune = {"llm": LORA, "projector": LORA, "vision": FROZEN}
    tune = {name: {**part, "dropout": 0.0} if part is LORA else part for name, part in tune.items()}
    row, exact, stored = rows_of(case, "tower")[0]
    model, taking = case.load(tune=tune), case.load("tower", tune=tune)
    taking.gradient_checkpointing_enable({"use_reentrant": False})
    padded = pad_samples(exact)
    padded = pad_row(padded, padded["input_ids"].shape[1] + 100)
    losses = []
    for network, inputs in ((model, row), (taking, padded)):
        network.train()
        losses.append(token_losses(network, case.family, inputs))
        losses[-1].sum().backward()
    torch.testing.assert_close(*losses, rtol=0, atol=1e-5)
    expected, found = gradients(model), gradients(taking)
    assert any("lora" in name and case.family.PROJECTOR in name for name in found)
    for name, gradient in expected.items():
        assert (gradient - found[name]).norm() <= 1e-4 * gradient.norm() + 1e-6, name

    samples = split(stored, case.family)
    again = join(samples)
    assert all(
        torch.equal(*pair) for pair in zip(again["features"], stored["features"], strict=True)
    )
    assert gates.packing_parity(case.load("tower"), case.family, samples[:4])["passed"]
    pictures = split(row, case.family)
    tower = VisionTower(case.load(), case.family, "tower", "fp32")
    fit = gates.features_fit(tower, pictures, samples)
    assert 0 < fit["max_difference"] < 2**-8
    for sample in samples:
        sample["features"] = [part * 1.1 for part in sample["features"]]
    with pytest.raises(gates.GateError, match=r"features: those of medium 1 of sample \d+ differ"):
        gates.features_fit(tower, pictures, samples)


def test_threads_and_reruns_change_no_byte_and_budgets_only_rounding(case):
    (first, *_), tokens = case.features("tower"), case.tokens[0]
    options = {"family": case.name, "point": "tower"}
    expected = files_under(first.parent)
    again = compute(tokens, case.model, **options, name="again", threads=2)
    found = files_under(again.parent)
    assert found.pop("manifest.json") != expected.pop("manifest.json")  # it has the name
    assert found == expected
    preset = "device: cpu\nvision_patches: 1\n"
    small = compute(tokens, case.model, **options, name="small", preset=preset)
    shards = read_json(tokens)["shards"]
    entries = [{**s, "path": f"tokens/mllm/tiny/{s['name']}"} for s in shards]
    readers = [FeatureReader(case.results, entries, [path]) for path in (first, small)]
    for shard in range(len(shards)):
        for row in range(shards[shard]["samples"]):
            for a, b in zip(*(reader.read(shard, row) for reader in readers), strict=True):
                torch.testing.assert_close(a.float(), b.float(), rtol=2**-7, atol=1e-5)


def test_shards_are_listed_and_read_by_others(case, tmp_path):
    for manifest, tokens in zip(case.features("projected"), case.tokens, strict=True):
        content, source = read_json(manifest), read_json(tokens)
        assert content["samples"] == source["samples"]["kept"]
        assert content["dtype"] == "bfloat16" and content["point"] == "projected"
        assert content["versions"]["torch"]
        for entry, shard in zip(content["shards"], source["shards"], strict=True):
            assert entry["tokens_sha256"] == shard["sha256"]
            tar = str(manifest.with_name(entry["name"]))
            samples = list(webdataset.WebDataset(tar, shardshuffle=False).decode())
            assert len(samples) == entry["samples"] > 0
            arrays = [sample[key] for sample in samples for key in sample if key.endswith("npy")]
            assert len(arrays) == entry["media"]
            assert sum(map(len, arrays)) == entry["rows"]
            assert {array.dtype for array in arrays} <= {np.dtype("uint16")}
            assert entry["device"] == ("cpu" if entry["media"] else "none")
            if case.name == "llava":
                rows = datasets.load_dataset(
                    "webdataset", data_files=tar, split="train", cache_dir=str(tmp_path / "cache")
                )
                assert len(rows) == entry["samples"]


@pytest.fixture(scope="module")
def screens(tmp_path_factory):
    """Tokens of drawn screens in three shards, a tiny model, and its features."""
    results = tmp_path_factory.mktemp("screens") / "results"
    model = tiny_models.build(results / "raw/models/tiny")
    lock_model(model)
    made = token_data.screens(18)
    tokens = token_data.tokenise(token_data.write_filtered(results, made), model)
    plan = token_data.plan(results, [tokens])
    return plan, tokens, model, compute(tokens, model, family="qwen2_vl", point="projected")


def data_of(plan: Path, manifest: Path) -> PlanDataset:
    results = plan.parents[2]
    parquet = plan.with_suffix(".parquet")
    return PlanDataset(results, plan, parquet, qwen2_vl, features=[manifest])


def test_pictures_are_not_read_where_there_are_features(screens, tmp_path):
    results = tmp_path / "results"
    shutil.copytree(screens[0].parents[2], results)
    plan, _, _, manifest = (results / path.relative_to(screens[0].parents[2]) for path in screens)
    expected = data_of(plan, manifest)[0]
    for tar in (results / "tokens").rglob("*.tar"):
        data = tar.read_bytes()
        parts = data.split(b"\x89PNG")
        tar.write_bytes(b"\x00PNG".join(parts))
        assert len(parts) > 1
    row = data_of(plan, manifest)[0]
    assert torch.equal(row["input_ids"], expected["input_ids"])
    assert all(
        torch.equal(*pair) for pair in zip(row["features"], expected["features"], strict=True)
    )
    with pytest.raises(DataError, match="cannot be read after 3 attempts"):
        PlanDataset(results, plan, plan.with_suffix(".parquet"), qwen2_vl)[0]


def test_features_of_other_tokens_are_refused(screens, tmp_path):
    plan, tokens, model, manifest = screens
    with pytest.raises(DataError, match=r"tokens/screens/tiny/shard-00000-png\.tar: no features"):
        other = read_json(manifest) | {"dataset": "others"}
        write_json(manifest.with_name("other.json"), other)
        data_of(plan, manifest.with_name("other.json"))
    changed = read_json(manifest)
    changed["shards"][1]["tokens_sha256"] = "0" * 64
    write_json(manifest.with_name("other.json"), changed)
    with pytest.raises(DataError, match=r"shard-00001-png\.tar: its features are of another file"):
        data_of(plan, manifest.with_name("other.json"))
    changed = read_json(tokens)
    changed["shards"][2]["sha256"] = "0" * 64
    copied = tokens.with_name("other") / "manifest.json"
    shutil.copytree(tokens.parent, copied.parent)
    write_json(copied, changed)
    with pytest.raises(DataError, match=r"shard-00002-png\.tar: not of the shard-00002-png\.tar"):
        compute(copied, model, family="qwen2_vl", point="projected")


def test_text_alone_needs_no_tower(screens, tmp_path):
    plan, tokens, model, _ = screens
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(model / "tokenizer.json", bare)
    write_json(bare.with_suffix(".lock.json"), {})
    results = tmp_path / "results"
    made = [(sample, []) for sample, _ in token_data.screens(3, "talk")]
    for sample, _ in made:
        sample.media, sample.boxes = [], []
        sample.messages = tiny_models.conversation("Save", "Open", images=0)
    options = {**token_data.OPTIONS, "task": "chat"}
    filtered = token_data.write_filtered(results, made)
    tokens = token_data.tokenise(filtered, bare, options=options)
    manifest = compute(tokens, bare, family="qwen2_vl", point="tower")
    (shard,) = read_json(manifest)["shards"]
    assert (shard["samples"], shard["media"], shard["device"]) == (3, 0, "none")
    plan = token_data.plan(results, [tokens])
    row = data_of(plan, manifest)[0]
    assert row["features"] == [] and len(row["samples"]) == 3
    model = qwen2_vl.load_model(model, torch.float32, "cpu")
    take_features(model, qwen2_vl, "tower")
    assert torch.isfinite(token_losses(model, qwen2_vl, row)).all()
