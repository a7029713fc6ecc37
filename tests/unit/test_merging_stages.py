"""Stages with token merging through the real programs: plan, train, export, answer."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_llava
import tiny_project
import torch
from tiny_project import FROZEN, FULL

import compute_features
import merge_model
import plan_stage
import predict_benchmark
import token_data
import train_stage
import write_features_manifest
from real_samples import convert, media_bytes
from shardline.errors import ConfigError, DataError
from shardline.estimate import estimate_stage
from shardline.exporting.adapter import export_adapter
from shardline.families import llava
from shardline.files import read_json, read_jsonl
from shardline.labels import count_supervised
from shardline.loader import PlanDataset
from shardline.merging_family import family_of_model, family_of_plan, family_of_stage
from shardline.plan_file import read_plan
from shardline.samples import Sample
from shardline.tasks import chat
from shardline.token_checks import planning_columns
from shardline.token_index import read_index
from shardline.token_reader import TokenReader
from shardline.training import gates, outcome
from shardline.training.journal import read_journal
from shardline.training.packs import split, stock_losses, token_losses
from shardline.truncation import cut

ROOT = Path(__file__).resolve().parents[2]
LAYERS = 4
TOKENS = {**token_data.OPTIONS["tokens"], "image_side": 112, "fit": "pad"}
TOKENISED = {"family": "llava", "task": "chat", "tokens": TOKENS, "plugins": []}
RATIO = {"ratio": 0.3, "slowfast": False}
ALL = {"llm": FULL, "projector": FULL, "vision": FULL}
SIZES = [(90, 60), (60, 120), (112, 112)]
SHAPES = [(6 + number % 17, SIZES[: number % 4]) for number in range(20)]


@dataclass
class Data:
    """Tokenised conversations, and the model that they are tokenised for."""

    root: Path
    model: Path
    lock: Path
    manifest: Path

    @property
    def results(self) -> Path:
        return self.root / "results"

    def plan(self, merging: dict | None = RATIO, stage: str = "s", **changes: Any) -> Path:
        """Run the planning program."""
        options = token_data.plan_options([self.manifest], stage, family="llava", **changes)
        if merging:
            options["token_merging"] = merging
        plan = self.results / f"plans/demo/{stage}.json"
        arguments = {
            "options": json.dumps(options),
            "tokens": self.manifest,
            **({"model": self.model} if merging else {}),
            "plan": plan,
            "parquet": plan.with_suffix(".parquet"),
            "rejects": plan.with_suffix(".rejects.jsonl"),
        }
        plan_stage.main(token_data.command_line(arguments))
        return plan

    def data(self, plan: Path, **options: Any) -> PlanDataset:
        return PlanDataset(self.results, plan, plan.with_suffix(".parquet"), llava, **options)

    def folder(self, stage: str) -> Path:
        return self.results / "checkpoints/demo" / stage

    def arguments(self, plan: Path, preset: str = "", **changes: Any) -> list[str]:
        """Of the training program."""
        stage = plan.stem
        hardware = self.root / f"{stage}.yaml"
        hardware.write_text(f"device: cpu\ncheckpoint_every: 2\n{preset}")
        options = {
            "recipe": "demo",
            "stage": stage,
            "method": "sft",
            "family": "llava",
            "seed": 5,
            "precision": "fp32",
            "tune": ALL,
            "optimizer": {"name": "adamw", "betas": [0.9, 0.999], "eps": 1e-8, "clip": 1.0},
            "schedule": {"name": "cosine", "warmup": 1},
            "token_merging": RATIO,
            **changes,
        }
        if options["token_merging"] is None:
            del options["token_merging"]
        arguments = {
            "options": json.dumps(options),
            "plan": plan,
            "parquet": plan.with_suffix(".parquet"),
            "results": self.results,
            "model": self.model,
            "model-manifest": self.lock,
            "work": self.folder(stage) / "work",
            "code": "c0de",
            "hardware": hardware,
            "threads": 1,
            "result": self.folder(stage) / "result.json",
        }
        return token_data.command_line(arguments)

    def losses(self, stage: str) -> list[str]:
        (work,) = (self.folder(stage) / "work").iterdir()
        return [line["metrics"]["loss"].hex() for line in read_journal(work)]


def turns() -> tuple[Sample, list[bytes]]:
    """A conversation with a picture in each of its two questions."""
    sample, files = token_data.talks([(9, SIZES[:2])], first=100)[0]
    text = {"type": "text", "text": "what else"}
    again = [
        {"role": "user", "content": [{"type": "image"}, text]},
        {"role": "assistant", "content": [{"type": "text", "text": "bdfbdfbdfbdf"}]},
    ]
    question, answer = sample.messages
    question = {**question, "content": question["content"][1:]}
    return dataclasses.replace(sample, messages=[question, answer, *again]), files


def made(root: Path, samples: list, tokens: dict | None = None) -> Data:
    model = tiny_llava.build(root / "results/raw/models/tiny", num_hidden_layers=LAYERS)
    lock = tiny_project.lock_model(model)
    filtered = token_data.write_filtered(root / "results", samples, shard_size=9)
    options = {**TOKENISED, "tokens": {**TOKENS, **(tokens or {})}}
    return Data(root, model, lock, token_data.tokenise(filtered, model, options=options))


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """0 to 3 pictures a conversation, and one with a picture between its answers."""
    yield made(tmp_path_factory.mktemp("talks"), [*token_data.talks(SHAPES), turns()])
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def clips(tmp_path: Path, shared_data: Path) -> Data:
    """Real videos with captions."""
    root = tmp_path
    options = {"annotations": "videos/captions.jsonl"}
    folder = shared_data / "captioned_videos"
    found = convert(folder, root, "clips", format="llava", frame=None, format_options=options)
    files = [(sample, media_bytes(sample, root)) for sample in found]
    return made(root, files)


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
    converted = token_data.write_converted(talks.results, [*token_data.talks(SHAPES), turns()])
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


def test_packed_flattened_and_padded_steps_train_alike(talks: Data) -> None:
    curves = {}
    for stage, changes, preset in (
        ("step", {}, ""),
        ("flatten", {"packing": "flatten"}, "micro_batch: 4\ngradient_checkpointing: true\n"),
        ("none", {"packing": "none"}, "micro_batch: 4\n"),
    ):
        limits = {"max_length": 500, "steps": 4, "epochs": None}
        plan = talks.plan(stage=stage, **limits, **changes)
        train_stage.main(talks.arguments(plan, preset))
        curves[stage] = [float.fromhex(loss) for loss in talks.losses(stage)]
        result = read_json(talks.folder(stage) / "result.json")
        assert result["token_merging"] == RATIO
        assert result["gates"]["packing_parity"]["passed"]
        assert result["gates"]["freeze_audit"]["moved"] == dict.fromkeys(ALL, True)
    assert curves["step"] == pytest.approx(curves["flatten"], rel=1e-4)
    assert curves["step"] == pytest.approx(curves["none"], rel=1e-4)
    assert curves["step"][-1] < 0.8 * curves["step"][0]


@pytest.mark.slow
def test_two_ranks_train_as_one_does(talks: Data) -> None:
    """A rank waits for the gradients of all that is trained; the tower's last block has none."""
    plan = talks.plan(stage="ranks", max_length=250, steps=4, epochs=None)
    train_stage.main(talks.arguments(plan))
    alone = [float.fromhex(loss) for loss in talks.losses("ranks")]
    shutil.rmtree(talks.folder("ranks"))
    arguments = talks.arguments(plan, "ranks: 2\n")
    subprocess.run([sys.executable, "scripts/train_stage.py", *arguments], cwd=ROOT, check=True)
    assert [float.fromhex(loss) for loss in talks.losses("ranks")] == pytest.approx(alone, rel=1e-4)


@pytest.mark.slow
def test_a_killed_training_goes_on_as_if_it_had_not_been(talks: Data) -> None:
    plan = talks.plan(stage="killed", max_length=500, steps=8, epochs=None)
    arguments = talks.arguments(plan)
    train_stage.main(arguments)
    stage = talks.folder("killed")
    expected = talks.losses("killed"), (stage / "result.json").read_bytes()
    shutil.rmtree(stage)
    process = subprocess.Popen(
        [sys.executable, "scripts/train_stage.py", *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while process.poll() is None and not list(stage.glob("work/*/checkpoint-*/complete.json")):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    said = process.communicate()[0]
    assert not (stage / "result.json").exists(), said
    train_stage.main(arguments)
    assert (talks.losses("killed"), (stage / "result.json").read_bytes()) == expected


def test_what_does_not_fit_together_is_refused(talks: Data) -> None:
    plan = talks.plan(stage="refused")
    other = {"ratio": 0.5, "slowfast": False}
    with pytest.raises(ConfigError, match=r"made for token_merging = .*0\.3.*, not .*0\.5"):
        train_stage.main(talks.arguments(plan, token_merging=other))
    with pytest.raises(ConfigError, match="not None; plan again"):
        train_stage.main(talks.arguments(plan, token_merging=None))
    zero = talks.root / "zero3.json"
    zero.write_text(json.dumps({"zero_optimization": {"stage": 3}}))
    slow = {**RATIO, "slowfast": True}
    plan = talks.plan(slow, "slow", global_batch={"samples": 8}, max_length=400)
    with pytest.raises(ConfigError, match=r"token_merging\.slowfast = true: not with ZeRO stage 3"):
        family = family_of_stage(llava, {"token_merging": slow}, talks.model)
        _planned(family, talks, plan, slow, f"ranks: 2\ndeepspeed: {zero}\n")
    deeper = tiny_llava.build(talks.root / "deeper", num_hidden_layers=5)
    family = family_of_plan(llava, read_json(plan))
    with pytest.raises(DataError, match=r"num_hidden_layers is 5, and token merging counts on 4"):
        family.load_model(deeper, torch.float32, "cpu")
    options = token_data.plan_options([talks.manifest], family="llava", token_merging=RATIO)
    with pytest.raises(ConfigError, match="--model"):
        plan_stage.main(
            token_data.command_line(
                {
                    "options": json.dumps(options),
                    "tokens": talks.manifest,
                    **{name: talks.root / name for name in ("plan", "parquet", "rejects")},
                }
            )
        )


def _planned(family: Any, talks: Data, plan: Path, merging: dict, preset: str) -> Any:
    from shardline.hardware import load_hardware
    from shardline.training.inputs import Stage
    from shardline.training.merging import planned_family

    talks.arguments(plan, preset)
    stage = Stage(
        options={"token_merging": merging},
        plan=plan,
        parquet=plan,
        results=talks.results,
        model=talks.model,
        model_manifest=talks.lock,
        work=talks.root,
        code="",
        hardware=load_hardware(talks.root / f"{plan.stem}.yaml"),
        threads=1,
    )
    return planned_family(family, stage, read_json(plan))


def test_three_stages_each_with_its_ratio_start_from_the_last(tmp_path: Path) -> None:
    """The published set-up, and a LoRA stage after it; each export says how it was trained."""
    root = tmp_path
    results = root / "results"
    model = tiny_llava.build(results / "raw/models/tiny")
    base = Data(root, model, tiny_project.lock_model(model), Path())
    filtered = token_data.write_filtered(results, token_data.talks(SHAPES))
    base.manifest = token_data.tokenise(filtered, model, options=TOKENISED)
    only = {"llm": FROZEN, "projector": FROZEN, "vision": FROZEN}
    lora = {**only, "vision": {**tiny_project.LORA, "lr": 0.05, "dropout": 0.0}}
    stages = {
        "projection": ({**only, "projector": FULL}, None),
        "vision": ({**ALL, "llm": FROZEN}, {"ratio": 0.5, "slowfast": True}),
        "language": (ALL, {"ratio": 0.1, "slowfast": False}),
        "adapt": (lora, RATIO),
        "plain": (ALL, None),
    }
    kept = {"projection": 64, "vision": 64 - 2 * 10, "language": 64 - 2 * 19, "adapt": 64 - 2 * 14}
    now = base
    manifest, raw = tiny_project.benchmark(root)
    for name, (tune, merging) in stages.items():
        plan = now.plan(merging, name, max_length=400, steps=3, epochs=None)
        train_stage.main(now.arguments(plan, tune=tune, token_merging=merging))
        stage = now.folder(name)
        folder = results / f"models/demo/{name}/merged"
        options = {"family": "llava", "min_visual_tokens": 4, "max_visual_tokens": 64}
        if merging:
            options["token_merging"] = merging
        merge_model.main(
            token_data.command_line(
                {
                    "options": json.dumps(options),
                    "result": stage / "result.json",
                    "model": now.model,
                    "model-manifest": now.lock,
                    "folder": folder,
                    "manifest": folder.with_suffix(".json"),
                    "threads": 1,
                }
            )
        )
        assert read_json(folder.with_suffix(".json"))["parity"]["passed"]
        assert read_json(folder / "config.json").get("token_merging") == merging
        family = family_of_model(llava, folder)
        assert family.visual_tokens((1, 8, 8)) == kept.get(name, 64)
        now = Data(root, folder, folder.with_suffix(".json"), base.manifest)
        if name == "language":
            options = {"family": "llava", "task": "grounding", "max_new_tokens": 4}
            answers = root / "predictions.jsonl"
            predict_benchmark.main(
                token_data.command_line(
                    {
                        "options": json.dumps({**options, "tokens": TOKENS}),
                        "model": folder,
                        "model-manifest": folder.with_suffix(".json"),
                        "converted": manifest,
                        "raw": raw,
                        "predictions": answers,
                        "hardware": root / "language.yaml",
                        "threads": 1,
                    }
                )
            )
            assert len(list(read_jsonl(answers))) > 7
    adapter = results / "models/demo/adapt/adapter"
    export_adapter(base.folder("adapt") / "result.json", adapter, adapter.with_suffix(".json"))
    assert read_json(adapter.with_suffix(".json"))["token_merging"] == RATIO
    final = outcome.final_folder(
        base.folder("plain") / "result.json", read_json(base.folder("plain") / "result.json")
    )
    assert "token_merging" not in read_json(final / "config.json")


def test_stored_features_are_those_of_the_merging_tower(clips: Data) -> None:
    merging = {"ratio": 0.3, "slowfast": True}
    plan = clips.plan(merging, "cached", max_length=2000, steps=2, epochs=None)
    hardware = clips.root / "features.yaml"
    hardware.write_text("device: cpu\n")
    options = {"family": "llava", "point": "tower", "precision": "fp32", "token_merging": merging}
    folder = clips.results / "features/clips/tiny/tower"
    for shard in read_json(clips.manifest)["shards"]:
        tar = folder / shard["name"]
        compute_features.main(
            token_data.command_line(
                {
                    "options": json.dumps(options),
                    "tokens": clips.manifest.parent / shard["name"],
                    "model": clips.model,
                    "model-manifest": clips.lock,
                    "hardware": hardware,
                    "threads": 1,
                    "output": tar,
                    "index": tar.with_suffix(".index.parquet"),
                }
            )
        )
    manifest = folder / "manifest.json"
    write_features_manifest.main(
        token_data.command_line(
            {
                "dataset": "clips",
                "variant": "tiny",
                "features": "tower",
                "tokens": clips.manifest,
                "folder": folder,
                "manifest": manifest,
            }
        )
    )
    tune = {"llm": FULL, "projector": FULL, "vision": FROZEN}
    arguments = clips.arguments(plan, tune=tune, token_merging=merging)
    train_stage.main(arguments)
    seen = [float.fromhex(loss) for loss in clips.losses("cached")]
    shutil.rmtree(clips.folder("cached"))
    arguments = clips.arguments(plan, tune=tune, token_merging=merging, features="tower")
    train_stage.main([*arguments, "--features", str(manifest)])
    stored = [float.fromhex(loss) for loss in clips.losses("cached")]
    assert stored == pytest.approx(seen, rel=0.01) and stored != seen
    assert np.isfinite(stored).all()
