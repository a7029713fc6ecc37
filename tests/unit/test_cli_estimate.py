"""`shardline estimate` and the memory formula behind it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from shardline import paths
from shardline.cli.estimate import duration
from shardline.cli.main import main
from shardline.errors import UserError
from shardline.families import qwen2_vl
from shardline.files import read_json, write_json
from shardline.hardware import Hardware
from shardline.memory import (
    Architecture,
    Forward,
    activation_bytes,
    device_bytes,
    lora_parameters,
    parameter_counts,
    read_architecture,
    read_shapes,
)

SHAPES = {
    "model.embed_tokens.weight": (100, 8),
    "model.layers.0.self_attn.q_proj.weight": (8, 8),
    "model.layers.0.self_attn.q_proj.bias": (8,),
    "model.layers.0.mlp.up_proj.weight": (32, 8),
    "model.norm.weight": (8,),
    "lm_head.weight": (100, 8),
    "visual.patch_embed.proj.weight": (4, 3, 2, 14, 14),
    "visual.blocks.0.attn.qkv.weight": (12, 4),
    "visual.merger.mlp.0.weight": (16, 16),
}
SIZES = Architecture(
    layers=1,
    hidden=8,
    intermediate=32,
    key_width=4,
    vocabulary=100,
    vision_layers=1,
    vision_hidden=4,
    vision_ratio=2,
)
FROZEN = {"mode": "frozen"}
LLM = 800 + 64 + 8 + 256 + 8 + 800
VISION = 4 * 3 * 2 * 14 * 14 + 48
PROJECTOR = 256
CPU = Hardware(name="one")


def lora(rank: int, targets: list[str] | None = None) -> dict:
    return {"mode": "lora", "lr": 1e-4, "rank": rank, "alpha": 8, "targets": targets}


def tune(llm=FROZEN, projector=FROZEN, vision=FROZEN) -> dict:
    return {"llm": llm, "projector": projector, "vision": vision}


def parts(tuning: dict, precision: str, hardware: Hardware = CPU) -> dict[str, int]:
    options = {"tune": tuning, "precision": precision}
    return device_bytes(SHAPES, SIZES, qwen2_vl, options, Forward(0, 0, 10), hardware)


def test_parameters_are_counted_by_module():
    assert parameter_counts(SHAPES, qwen2_vl) == {
        "llm": LLM,
        "projector": PROJECTOR,
        "vision": VISION,
    }


def test_lora_adds_rank_times_both_sides_of_linear_layers_only():
    assert lora_parameters(SHAPES, qwen2_vl, tune(lora(4))) == 4 * (16 + 40)
    assert lora_parameters(SHAPES, qwen2_vl, tune(lora(4, ["q_proj"]))) == 4 * 16
    assert lora_parameters(SHAPES, qwen2_vl, tune(lora(4, ["proj"]))) == 0
    assert lora_parameters(SHAPES, qwen2_vl, tune(vision=lora(2))) == 2 * 16


def test_quantised_layers_hold_4_127_bits_a_parameter():
    options = {"tune": tune(lora(4)), "precision": "bf16"}
    whole, packed = (
        device_bytes(SHAPES, SIZES, qwen2_vl, {**options, **more}, Forward(0, 0, 10), CPU)
        for more in ({}, {"quantise": "nf4"})
    )
    linear = 8 * 8 + 32 * 8
    assert whole["weights"] - packed["weights"] == 2 * linear - round(4.127 / 8 * linear)
    assert {k: v for k, v in whole.items() if k not in ("weights", "total")} == {
        k: v for k, v in packed.items() if k not in ("weights", "total")
    }


def test_full_training_in_fp32_holds_16_bytes_a_parameter():
    full = {"mode": "full", "lr": 1e-3}
    found = parts(tune(full, full, full), "fp32")
    total = LLM + PROJECTOR + VISION
    assert (found["weights"], found["gradients"], found["optimiser"]) == (
        4 * total,
        4 * total,
        8 * total,
    )
    assert found["logits"] == 10 * 100 * 12
    assert found["total"] == 16 * total + found["logits"]


def test_full_training_in_bf16_keeps_fp32_weights_and_copies():
    full = {"mode": "full", "lr": 1e-3}
    found = parts(tune(llm=full), "bf16")
    assert found["weights"] == 6 * LLM + 2 * (PROJECTOR + VISION)
    assert found["optimiser"] == 8 * LLM


def test_lora_trains_its_own_parameters_alone():
    found = parts(tune(lora(4)), "bf16")
    added = 4 * (16 + 40)
    assert found["weights"] == 2 * (LLM + PROJECTOR + VISION) + 4 * added
    assert (found["gradients"], found["optimiser"]) == (4 * added, 8 * added)


@pytest.mark.parametrize(
    ("stage", "divided"),
    [
        (1, {"optimiser"}),
        (2, {"optimiser", "gradients"}),
        (3, {"optimiser", "gradients", "weights"}),
    ],
)
def test_deepspeed_divides_by_the_ranks(tmp_path, stage, divided):
    file = tmp_path / "zero.json"
    write_json(file, {"zero_optimization": {"stage": stage}})
    full = {"mode": "full", "lr": 1e-3}
    alone = parts(tune(llm=full), "bf16")
    several = parts(tune(llm=full), "bf16", Hardware(name="four", ranks=4, deepspeed=str(file)))
    for name in ("weights", "gradients", "optimiser"):
        assert several[name] == alone[name] // (4 if name in divided else 1)


def test_activations_follow_the_formula():
    forward = Forward(tokens=10, patches=40, supervised=0)
    block = 4 * (8 * 8 + 3 * 4 + 4 * 32) + 8 * 8
    assert activation_bytes(SIZES, tune(lora(1)), forward, CPU, 4) == 10 * block
    tower = 4 * (10 + 4) * 4 + 8 * 4
    tuned = tune(lora(1), vision=lora(1))
    assert activation_bytes(SIZES, tuned, forward, CPU, 4) == 10 * block + 40 * tower
    saving = Hardware(name="saving", gradient_checkpointing=True)
    assert activation_bytes(SIZES, tune(lora(1)), forward, saving, 4) == 10 * 4 * 8 + 10 * block


def test_shapes_come_from_all_files_of_a_folder(tmp_path):
    half = np.zeros((2, 3), np.float16)
    save_file({"a.weight": half}, tmp_path / "model-00001.safetensors", metadata={"format": "pt"})
    save_file({"b.weight": half[0]}, tmp_path / "model-00002.safetensors")
    assert read_shapes(tmp_path) == {"a.weight": (2, 3), "b.weight": (3,)}


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 40, b"\x02\0\0\0\0\0\0\0[]"])
def test_a_broken_file_of_weights_is_named(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"model.safetensors: not a safetensors file"):
        read_shapes(tmp_path)


def test_flat_and_nested_configs_are_read(tmp_path):
    text = {
        "hidden_size": 8,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": 100,
    }
    vision = {"depth": 1, "embed_dim": 4, "mlp_ratio": 2}
    for config in (
        text | {"vision_config": vision},
        {"text_config": text, "vision_config": vision},
    ):
        write_json(tmp_path / "config.json", config)
        assert read_architecture(tmp_path) == SIZES
    del text["vocab_size"]
    write_json(tmp_path / "config.json", text)
    with pytest.raises(UserError, match="has no vocab_size"):
        read_architecture(tmp_path)


def ask(capsys, *words: str) -> dict:
    main(["estimate", "small", "--json", *words])
    return json.loads(capsys.readouterr().out)


def test_with_a_plan_its_figures_are_told(small_project, capsys):
    found = ask(capsys)
    for stage in ("sft", "adapt"):
        plan = read_json(Path(paths.plan("small", stage)))
        data = found[stage]["data"]
        for name in ("samples", "distinct_samples", "tokens", "packs", "steps", "fill"):
            assert data[name] == plan[name]
        assert data["visual_tokens"] == plan["patches"] // 4
    assert found["sft"]["memory"]["parameters"]["llm"] == 5904
    assert found["adapt"]["memory"]["trainable_parameters"] == 4 * (32 + 48)


def test_before_tokenising_the_estimate_equals_the_later_plan(small_project, capsys):
    planned = ask(capsys)["sft"]["data"]
    for folder in ("plans", "tokens", "filtered"):
        shutil.rmtree(Path("results") / folder)
    guessed = ask(capsys)["sft"]["data"]
    assert guessed["source"] == "converted samples, before filters; text counted"
    for name in ("samples", "tokens", "visual_tokens", "packs", "steps", "fill"):
        assert guessed[name] == planned[name]


def test_a_plan_of_another_config_is_passed_over(small_project, capsys):
    file = Path("config/recipes/small.yaml")
    file.write_text(file.read_text().replace("max_length: 512", "max_length: 100", 1))
    found = ask(capsys)
    assert found["sft"]["data"]["source"].endswith(
        f"{paths.plan('small', 'sft')} is of another config (max_length: 512, now 100)"
    )
    assert found["sft"]["data"]["max_length"] == 100
    assert found["adapt"]["data"]["source"] == paths.plan("small", "adapt")


def test_what_is_left_out_is_said(small_project, capsys):
    file = Path("config/recipes/small.yaml")
    longest = read_json(Path(paths.plan("small", "sft")))["histogram"]["edges"][-1]
    file.write_text(file.read_text().replace("max_length: 512", f"max_length: {longest - 1}", 1))
    left = ask(capsys, "--stage", "sft")["sft"]["data"]["left_out"]
    assert 0 < left["too_long"] < 10
    main(["estimate", "small", "--stage", "sft"])
    assert re.search(rf"left out +{left['too_long']} too_long", capsys.readouterr().out)


def test_a_reference_says_what_its_learning_rate_becomes(small_project, capsys):
    mine = Path("mine.yaml")
    mine.write_text(
        "recipes: {mine: {extends: small, stages.sft.global_batch: {reference_samples: 2}}}\n"
    )
    expected = {
        "reference_samples": 2,
        "samples_per_step": 4.0,
        "updates": 10.0,
        "learning_rate_factor": {"linear": 2.0, "square_root": 1.4142},
    }
    main(["estimate", "mine", "--configfile", "mine.yaml", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["sft"]["data"]["equivalent"] == expected
    assert "equivalent" not in found["adapt"]["data"]
    main(["estimate", "mine", "--configfile", "mine.yaml", "--stage", "sft"])
    text = capsys.readouterr().out
    assert "10 updates of 2 samples: a step has 4.0; their learning rate times 1.41" in text


def test_without_the_base_the_memory_says_what_to_fetch(small_project, capsys):
    shutil.rmtree("results/plans")
    (lock,) = Path("results/raw/models").glob("*.lock.json")
    lock.unlink()
    base = Path(str(lock).removesuffix(".lock.json"))
    base.unlink()
    found = ask(capsys)["sft"]
    assert found["memory"]["missing"].endswith(str(lock))
    assert found["data"]["source"].endswith("guessed from its characters")


def test_without_converted_data_the_error_says_what_to_run(small_project):
    for folder in ("plans", "converted"):
        shutil.rmtree(Path("results") / folder)
    with pytest.raises(UserError, match="snakemake --profile profiles/local results/converted/"):
        main(["estimate", "small"])


def test_hours_are_measured_given_or_unknown(small_project, capsys):
    tokens = read_json(Path(paths.plan("small", "sft")))["tokens"]
    measured = ask(capsys)["sft"]["time"]
    assert measured["tokens_per_second"] == 1003.0
    assert measured["source"].startswith("measured, results/checkpoints/small/sft/work/")
    given = ask(capsys, "--tokens-per-second", "50")["sft"]["time"]
    assert given["device_hours"] == pytest.approx(tokens / 50 / 3600)
    shutil.rmtree("results/checkpoints")
    assert ask(capsys)["sft"]["time"] is None


def test_a_preset_divides_the_hours(small_project, capsys):
    preset = Path("config/hardware/eight.yaml")
    preset.parent.mkdir()
    preset.write_text("{device: cuda, ranks: 8, micro_batch: 2}\n")
    words = ("--tokens-per-second", "50", "--stage", "sft")
    one = ask(capsys, *words)["sft"]
    eight = ask(capsys, *words, "--hardware", "eight")["sft"]
    assert eight["time"]["device_hours"] == one["time"]["device_hours"]
    assert eight["time"]["hours"] == pytest.approx(one["time"]["hours"] / 8)
    assert eight["memory"]["bytes"]["activations"] == pytest.approx(
        2 * one["memory"]["bytes"]["activations"], rel=0.01
    )


@pytest.mark.parametrize("speed", ["0", "-3", "nan"])
def test_a_speed_that_is_none(small_project, speed):
    with pytest.raises(UserError, match="must be above 0"):
        main(["estimate", "small", f"--tokens-per-second={speed}"])


def test_the_text_is_called_an_estimate(small_project, capsys):
    main(["estimate", "small", "--stage", "adapt"])
    text = capsys.readouterr().out
    assert text.startswith("small / adapt\n")
    assert "a device, an estimate" in text
    assert "1 pack each at most" in text


@pytest.mark.parametrize(
    ("hours", "text"), [(0.01, "36 s"), (0.5, "30 min"), (3.44, "3.4 h"), (2000, "2,000.0 h")]
)
def test_durations(hours, text):
    assert duration(hours) == text
