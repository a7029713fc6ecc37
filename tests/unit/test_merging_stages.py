"""Stages with token merging through the real programs: train, go on, export, answer."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import merging_data
import numpy as np
import pytest
import tiny_project
import torch
from merging_data import RATIO, SHAPES, TOKENISED, TOKENS, Data
from tiny_project import FROZEN, FULL
from watched_trainings import start

import compute_features
import merge_model
import plan_stage
import predict_benchmark
import token_data
import train_stage
import write_features_manifest
from shardline.errors import ConfigError, DataError
from shardline.exporting.adapter import export_adapter
from shardline.families import llava
from shardline.files import read_json, read_jsonl
from shardline.hardware import load_hardware
from shardline.merging_family import family_of_model, family_of_plan, family_of_stage
from shardline.training import outcome
from shardline.training.inputs import Stage
from shardline.training.merging import planned_family

ALL = tiny_project.TRAINING["tune"]


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return merging_data.talks(tmp_path_factory.mktemp("talks"))


@pytest.fixture
def clips(tmp_path: Path, shared_data: Path) -> Data:
    return merging_data.clips(tmp_path, shared_data)


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
    process = start(talks.arguments(plan, "ranks: 2\n"))
    said = process.communicate()[0]
    assert process.returncode == 0, said
    assert [float.fromhex(loss) for loss in talks.losses("ranks")] == pytest.approx(alone, rel=1e-4)


@pytest.mark.slow
def test_a_killed_training_goes_on_as_if_it_had_not_been(talks: Data) -> None:
    plan = talks.plan(stage="killed", max_length=500, steps=8, epochs=None)
    arguments = talks.arguments(plan)
    train_stage.main(arguments)
    stage = talks.folder("killed")
    expected = talks.losses("killed"), (stage / "result.json").read_bytes()
    shutil.rmtree(stage)
    process = start(arguments)
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
    deeper = merging_data.build(talks.root / "deeper", 5)
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
    stage = Stage(
        options={"token_merging": merging},
        plan=plan,
        parquet=plan,
        results=talks.results,
        model=talks.model,
        model_manifest=talks.lock,
        work=talks.root,
        code="",
        hardware=load_hardware(talks.hardware(plan.stem, preset)),
        threads=1,
    )
    return planned_family(family, stage, read_json(plan))


def test_three_stages_each_with_its_ratio_start_from_the_last(tmp_path: Path) -> None:
    """The published set-up, and a LoRA stage after it; each export says how it was trained."""
    root = tmp_path
    results = root / "results"
    model = merging_data.build(results / "raw/models/tiny", 3)
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
