"""Model FLOPs: against numbers worked out by hand, and against what torch counts while it runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_models
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from shardline import flops
from shardline.families import qwen2_vl as family
from shardline.flops import Work
from shardline.training.packs import stock_losses, supervised
from shardline.training.tuning import apply_tuning

FROZEN, FULL = {"mode": "frozen"}, {"mode": "full"}
LORA = {"mode": "lora", "rank": 8, "alpha": 16, "dropout": 0.0, "targets": None}
GRID = (1, 8, 6)


@pytest.fixture(scope="module")
def published() -> torch.nn.Module:
    """Qwen2-VL-2B without weights."""
    text = {
        **{"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28},
        **{"num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151936},
    }
    vision = {"depth": 32, "embed_dim": 1280, "num_heads": 16, "mlp_ratio": 4, "hidden_size": 1536}
    config = Qwen2VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True)
    with torch.device("meta"):
        return Qwen2VLForConditionalGeneration(config)


LAYER = 2 * 1536 * 1536 + 2 * 1536 * 256 + 3 * 1536 * 8960
ADAPTER = 8 * (2 * (1536 + 1536) + 2 * (1536 + 256) + 3 * (1536 + 8960))
TOWER = 32 * 12 * 1280**2 + 1176 * 1280
MERGER = 5120 * 5120 + 5120 * 1536


def test_forward_and_backward_of_a_model_trained_in_full(published: torch.nn.Module) -> None:
    published.requires_grad_(True)
    costs = flops.step_costs(published, family)
    assert costs.tokens == 6 * 28 * LAYER
    assert costs.supervised == 6 * 1536 * 151936
    assert costs.pairs == 3 * 4 * 28 * 1536 / 2
    # Pixels need no gradient, so that the first layer has none to its input.
    assert costs.patches == 6 * TOWER - 2 * 1176 * 1280
    assert costs.frame_pairs == 3 * 4 * 32 * 1280
    assert costs.visual_tokens == 6 * MERGER
    assert costs.window_pairs == 0


def test_a_frozen_tower_goes_forward_only(published: torch.nn.Module) -> None:
    published.requires_grad_(True)
    published.model.visual.requires_grad_(False)
    costs = flops.step_costs(published, family)
    assert (costs.patches, costs.visual_tokens) == (2 * TOWER, 2 * MERGER)
    assert costs.frame_pairs == 4 * 32 * 1280
    assert costs.tokens == 6 * 28 * LAYER  # the embeddings before the first layer are trained


def test_adapters_need_no_gradient_of_frozen_weights(tmp_path: Path) -> None:
    """LoRA on the language model of the seed: the first layer's inputs need no gradient either."""
    model = family.load_model(tiny_models.build(tmp_path / "m"), torch.float32, "cpu")
    model = apply_tuning(model, family, {"llm": LORA, "projector": FROZEN, "vision": FROZEN})
    attention, others = 64 * 64 + 2 * 64 * 32, 64 * 64 + 3 * 64 * 96
    first_a = 3 * 64 * 8
    adapters = 8 * (2 * (64 + 64) + 2 * (64 + 32) + 3 * (64 + 96))
    costs = flops.step_costs(model, family)
    whole = 2 * (4 * (attention + others) + 6 * adapters)
    assert costs.tokens == whole - 2 * attention - 2 * first_a
    assert costs.pairs == 3 * 4 * 2 * 64 / 2
    assert costs.supervised == 4 * 64 * model.config.text_config.vocab_size
    assert costs.frame_pairs == 4 * 2 * 32


def test_work_of_samples_and_their_media() -> None:
    work = flops.text_work([10, 20], 7) + flops.media_work([(1, 4, 6), (3, 2, 2)], 2)
    assert (work.tokens, work.pairs, work.supervised) == (30, 500, 7)
    assert (work.patches, work.visual_tokens) == (24 + 12, 6 + 3)
    assert work.frame_pairs == 24**2 + 3 * 4**2
    # A frame of 10 x 12 patches has windows of 8 x 8, 8 x 4, 2 x 8 and 2 x 4.
    assert flops.media_work([(1, 10, 12)], 2).window_pairs == 64**2 + 32**2 + 16**2 + 8**2
    assert flops.Costs(tokens=2.0, pairs=3.0).of(Work(tokens=5, pairs=7)) == 31.0


def test_peaks_are_known_by_the_device_s_name() -> None:
    assert flops.peak_flops("NVIDIA H200") == flops.peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert flops.peak_flops("NVIDIA A100-SXM4-80GB") == 312e12
    assert flops.peak_flops("NVIDIA GeForce RTX 4090") is None


@pytest.mark.parametrize(
    "tune",
    [
        {"llm": FULL, "projector": FULL, "vision": FULL},
        {"llm": FULL, "projector": FROZEN, "vision": FROZEN},
        {"llm": LORA, "projector": FROZEN, "vision": FROZEN},
        {"llm": LORA, "projector": FULL, "vision": FROZEN},
        {"llm": FROZEN, "projector": FULL, "vision": FROZEN},
        {"llm": FROZEN, "projector": FROZEN, "vision": LORA},
    ],
    ids=lambda tune: "-".join(part["mode"] for part in tune.values()),
)
def test_as_many_as_torch_counts_while_a_step_runs(tmp_path: Path, tune: dict) -> None:
    """All but the head, which is run on every place here, and the half of causal attention."""
    model = family.load_model(tiny_models.build(tmp_path / "m"), torch.float32, "cpu")
    row = _row(model)
    model = apply_tuning(model, family, tune)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        stock_losses(model, family, row).sum().backward()
    length = row["input_ids"].shape[1]
    work = flops.text_work([length], length) + flops.media_work([GRID], family.MERGE)
    costs = flops.step_costs(model, family)
    expected = costs.of(work) + costs.pairs * work.pairs  # torch counts both halves
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.01)


def _row(model: torch.nn.Module) -> dict:
    """One sample: an image of `GRID` between 9 and 21 tokens, of which the last 20 are learned."""
    visual = family.visual_tokens(GRID)
    ids = torch.arange(9 + visual + 21) % 200 + 20
    ids[9 : 9 + visual] = model.config.image_token_id
    types = (ids == model.config.image_token_id).long()
    labels = torch.where(torch.arange(len(ids)) >= len(ids) - 20, ids, -100)
    row = {
        "input_ids": ids[None],
        "labels": labels[None],
        "mm_token_type_ids": types[None],
        "image_grid_thw": torch.tensor([GRID]),
        "images": [torch.from_numpy(tiny_models.image(GRID, 0))],
        "media_types": [1],
        "intervals": [0.0],
    }
    assert len(supervised(row)) == 20
    return row
