"""A pack is what its samples are alone, in all families, with all kinds of media.

The reference is the stock model of transformers, sample by sample. The same comparison must fail
for the two ways in which a stock model takes a pack for one sample, and no warning says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import tiny_families
import torch
from torch.nn.functional import cross_entropy
from transformers import AttentionInterface, AutoModelForImageTextToText

import token_data
from shardline import attention
from shardline.loader import PlanDataset
from shardline.row_padding import pad_row, pad_samples
from shardline.training.packs import Row, join, split, supervised, token_losses
from shardline.vision_features import vision_keywords

TOLERANCE = 1e-5
WRONG = 1e-2  # what a comparison that sees a leak finds at least


class Built(NamedTuple):
    """A family with its samples and two models of equal weights."""

    family: Any
    samples: list[Row]
    poison: list[Row]
    """As long as the samples, of other letters and pixels."""
    ours: torch.nn.Module
    stock: torch.nn.Module


@pytest.fixture(scope="module", params=list(tiny_families.FAMILIES))
def built(request, tmp_path_factory) -> Built:
    family = tiny_families.FAMILIES[request.param]
    folder = tiny_families.build(request.param, tmp_path_factory.mktemp(request.param))
    stock = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="sdpa"
    )
    return Built(
        family,
        tiny_families.samples(family, folder),
        tiny_families.samples(family, folder, seed=1),
        family.load_model(folder, torch.float32, "cpu").eval(),
        stock.eval(),
    )


def pictures(built: Built, row: Row) -> dict[str, torch.Tensor]:
    grids = row["image_grid_thw"].tolist()
    return built.family.vision_inputs(
        row["images"], grids, "cpu", torch.float32, row["media_types"]
    )


def losses_at(logits: torch.Tensor, row: Row) -> torch.Tensor:
    places = supervised(row)
    return cross_entropy(logits[0, places], row["labels"][0, places + 1], reduction="none")


def alone(built: Built, row: Row) -> torch.Tensor:
    """Token losses of a sample as transformers' own forward has them, with its own positions."""
    inputs = built.family.position_inputs(
        row["mm_token_type_ids"], row["media_types"], row["intervals"]
    )
    inputs = inputs if row["media_types"] else {}
    logits = built.stock(
        input_ids=row["input_ids"], use_cache=False, **inputs, **pictures(built, row)
    ).logits
    return losses_at(logits, row)


def stock_pack(built: Built, row: Row, **how: Any) -> torch.Tensor:
    """Token losses of a pack in a stock model, which finds the boundaries in the positions."""
    places = row["position_ids"]
    places = places if len(places) > 2 else places[0]
    logits = built.stock(
        input_ids=row["input_ids"], position_ids=places, **how, **pictures(built, row)
    ).logits
    return losses_at(logits, row)


def gradients(model: torch.nn.Module, family: Any) -> dict[str, torch.Tensor]:
    parts: dict[str, list[torch.Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            parts.setdefault(family.module_of(name), []).append(parameter.grad.flatten())
    model.zero_grad()
    return {module: torch.cat(found) for module, found in parts.items()}


def difference(
    built: Built, model: torch.nn.Module, packed: Callable[[Row], torch.Tensor]
) -> float:
    """The largest difference of a sample's mean loss, or of a module's gradient, relative to it."""
    expected = [alone(built, row) for row in built.samples]
    torch.cat(expected).sum().backward()
    wanted = gradients(built.stock, built.family)
    losses = packed(join(built.samples))
    losses.sum().backward()
    found = gradients(model, built.family)
    assert found.keys() == wanted.keys() == {"llm", "projector", "vision"}
    parts = losses.split([len(part) for part in expected])
    worst = [abs(one.mean() - two.mean()).item() for one, two in zip(parts, expected, strict=True)]
    for module, gradient in wanted.items():
        worst.append(((gradient - found[module]).norm() / gradient.norm()).item())
    return max(worst)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_pack_has_the_losses_and_gradients_of_its_samples(built, checkpointing):
    if checkpointing:
        built.ours.gradient_checkpointing_enable({"use_reentrant": False})
    built.ours.train(checkpointing)
    try:
        worst = difference(
            built, built.ours, lambda row: token_losses(built.ours, built.family, row)
        )
    finally:
        built.ours.gradient_checkpointing_disable()
        built.ours.eval()
    assert worst < TOLERANCE


def test_padding_leaves_a_pack_what_it_is(built):
    for pad in (pad_samples, lambda row: pad_row(row, 3000)):
        worst = difference(
            built,
            built.ours,
            lambda row, pad=pad: token_losses(built.ours, built.family, pad(row)),
        )
        assert worst < TOLERANCE


@pytest.mark.parametrize(
    ("how", "right"),
    [
        ({"use_cache": False}, True),
        ({"use_cache": True}, False),
        ({"use_cache": False, "attention_mask": "ones"}, False),
    ],
    ids=["as it must be", "with a cache", "with a mask of ones"],
)
def test_a_stock_model_takes_a_pack_for_one_sample_unless_told_otherwise(built, how, right):
    """So the comparison above would see it if our packs leaked as these do."""

    def packed(row: Row) -> torch.Tensor:
        mask = (
            {"attention_mask": torch.ones_like(row["input_ids"])} if "attention_mask" in how else {}
        )
        return stock_pack(built, row, **{**how, **mask})

    worst = difference(built, built.stock, packed)
    assert worst < TOLERANCE if right else worst > WRONG


def test_a_poisoned_sample_changes_no_other(built):
    seen: list[torch.Tensor] = []
    hook = built.ours.register_forward_hook(lambda _, __, output: seen.append(output.logits[0]))

    def logits(rows: list[Row]) -> list[torch.Tensor]:
        pack = join(rows)
        pack["labels"] = pack["input_ids"].clone()
        pack["labels"][0, pack["cu_seq_lens_q"][:-1].long()] = -100
        lengths = (pack["cu_seq_lens_q"].diff() - 1).tolist()
        token_losses(built.ours, built.family, pack)
        return list(seen.pop().split(lengths))

    with torch.no_grad():
        clean = logits(built.samples)
        for poisoned, other in enumerate(built.poison):
            rows = [*built.samples]
            rows[poisoned] = other
            for number, found in enumerate(logits(rows)):
                change = (found - clean[number]).abs().max().item()
                assert change > 0.1 if number == poisoned else change == 0, (poisoned, number)
    hook.remove()


def test_images_of_all_sizes_in_one_call_are_what_they_are_one_by_one(built):
    rows = [row for row in built.samples if 2 not in row["media_types"]]
    images = [image for row in rows for image in row["images"]]
    grids = [grid for row in rows for grid in row["image_grid_thw"].tolist()]
    assert len(images) >= 4

    def features(model: torch.nn.Module, chosen: slice, **options: Any) -> torch.Tensor:
        inputs = vision_keywords(built.family, images[chosen], grids[chosen], "cpu", **options)
        return torch.cat(list(model.model.get_image_features(**inputs).pooler_output))

    def run(model: torch.nn.Module, chosen: list[slice], **options: Any):
        found = torch.cat([features(model, one, **options) for one in chosen])
        weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(0))
        (found * weights).sum().backward()
        return found.detach(), gradients(model, built.family)

    together, found = run(built.ours, [slice(None)])
    singly = [slice(number, number + 1) for number in range(len(images))]
    apart, wanted = run(built.stock, singly, segments=False)
    torch.testing.assert_close(together, apart, rtol=0, atol=TOLERANCE)
    assert found.keys() == wanted.keys() == {"projector", "vision"}
    for module, gradient in wanted.items():
        assert (gradient - found[module]).norm() / gradient.norm() < TOLERANCE, module


def test_no_segment_is_longer_than_what_the_kernel_is_told(built, monkeypatch):
    """A CUDA kernel told less leaves output and gradients unwritten."""
    told = []

    def watched(module, query, key, value, attention_mask, **options):
        for bounds, longest in (("cu_seq_lens_q", "max_length_q"), ("segments", "longest_segment")):
            if options.get(bounds) is not None:
                lengths = options[bounds].diff()
                causal = bounds == "cu_seq_lens_q"
                if causal == module.is_causal:
                    assert int(options[bounds][-1]) == query.shape[2]
                    told.append((causal, int(lengths.max()), options[longest]))
        return attention.packed_attention(module, query, key, value, attention_mask, **options)

    monkeypatch.setitem(AttentionInterface._global_mapping, attention.NAME, watched)
    pack = join(built.samples)
    rows = [pack, pad_samples(pack), pad_row(pack, 3000), pad_row(pad_samples(pack), 5000)]
    with torch.no_grad():
        for row in [*rows, *split(rows[2], built.family)]:
            token_losses(built.ours, built.family, row)
    assert {causal for causal, *_ in told} >= {True}
    if built.family.ATTENDS_WITHIN_FRAMES:
        assert {causal for causal, *_ in told} == {True, False}
    # A tower with windows is told of its frames, which are no shorter.
    exact = not getattr(built.family, "ATTENDS_WITHIN_WINDOWS", False)
    for causal, most, longest in told:
        assert longest == most if causal or exact else longest >= most


@pytest.mark.parametrize("packing", ["step", "flatten", "none"])
def test_every_row_of_a_plan_says_how_long_its_longest_segment_is(tmp_path, packing):
    filtered = token_data.write_filtered(tmp_path, token_data.screens(11))
    tokens = token_data.tokenise(filtered, token_data.tokenizer_folder(tmp_path))
    family = tiny_families.FAMILIES["qwen2_vl"]
    for fixed in (False, True):
        plan = token_data.plan(tmp_path, [tokens], packing=packing, fixed_shape=fixed)
        for micro_batch in (1, 3):
            for rank in range(2):
                data = PlanDataset(
                    tmp_path,
                    plan,
                    plan.with_suffix(".parquet"),
                    family,
                    rank=rank,
                    ranks=2,
                    micro_batch=micro_batch,
                )
                for item in range(len(data)):
                    row = data[item]
                    bounds = row["cu_seq_lens_q"]
                    assert row["max_length_q"] == row["max_length_k"] == int(bounds.diff().max())
                    assert int(bounds[-1]) == row["input_ids"].shape[1]
                    assert torch.equal(bounds, row["cu_seq_lens_k"])
                    if fixed:
                        assert int(bounds[-1]) == micro_batch * 256
