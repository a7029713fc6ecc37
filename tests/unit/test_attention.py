"""Packed attention: samples and images of a pack do not see each other, and nothing is lost."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import tiny_models
import torch
from torch.nn.functional import scaled_dot_product_attention

from shardline import attention
from shardline.families import qwen2_5_vl
from shardline.families import qwen2_vl as family
from shardline.vision_features import vision_keywords

LENGTHS = [5, 17, 16, 1, 17, 30]


class Module(torch.nn.Module):
    is_causal = True
    num_key_value_groups = 2


def _tensors(total: int, heads: int = 4, groups: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(1, count, total, 8, generator=generator, requires_grad=True)
        for count in (heads, heads // groups, heads // groups)
    ]


def _reference(tensors: list[torch.Tensor], lengths: list[int], causal: bool) -> torch.Tensor:
    query, key, value = tensors
    groups = query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(groups, 1) for t in (key, value))
    parts = zip(*(t.split(lengths, dim=2) for t in (query, key, value)), strict=True)
    outputs = [scaled_dot_product_attention(*part, is_causal=causal) for part in parts]
    return torch.cat(outputs, dim=2).transpose(1, 2)


@pytest.mark.parametrize("lengths", [LENGTHS, [8, 8, 8], [9]])
@pytest.mark.parametrize("causal", [True, False])
def test_every_segment_is_attended_alone_in_values_and_gradients(
    lengths: list[int], causal: bool
) -> None:
    tensors = _tensors(sum(lengths))
    bounds = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
    names = ("cu_seq_lens_q", "max_length_q") if causal else ("segments", "longest_segment")
    options = {names[0]: bounds, names[1]: max(lengths), "is_causal": causal}
    found, _ = attention.packed_attention(Module(), *tensors, None, **options)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad((found * weights).sum(), tensors)
    expected = _reference(tensors, lengths, causal)
    expected_gradients = torch.autograd.grad((expected * weights).sum(), tensors)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=0, atol=1e-5)


def test_few_calls_for_many_lengths() -> None:
    lengths = [90 + number for number in range(20)]
    bounds = (0, *itertools.accumulate(lengths))
    layout = attention._layout(bounds, True, torch.device("cpu"))
    assert len(layout.batches) == 1
    assert sum(rows * width for rows, width in layout.batches) <= sum(lengths) / attention.FILL


def test_boundaries_and_a_mask_together_are_refused() -> None:
    tensors = _tensors(8)
    bounds = torch.tensor([0, 8], dtype=torch.int32)
    with pytest.raises(ValueError, match="no attention mask"):
        attention.packed_attention(
            Module(), *tensors, torch.ones(1, 1, 8, 8, dtype=torch.bool), cu_seq_lens_q=bounds
        )


def test_boundaries_of_the_language_model_do_not_reach_the_vision_tower() -> None:
    """Some versions of transformers hand all keywords on to every attention."""
    tensors = _tensors(12)
    bounds = torch.tensor([0, 5, 12], dtype=torch.int32)
    found, _ = attention.packed_attention(
        Module(), *tensors, None, is_causal=False, cu_seq_lens_q=bounds, max_length_q=7
    )
    torch.testing.assert_close(found, _reference(tensors, [12], False), rtol=0, atol=1e-6)


def test_images_in_one_call_are_what_they_are_one_by_one(tmp_path: Path) -> None:
    model = family.load_model(tiny_models.build(tmp_path / "m"), torch.float32, "cpu")
    grids = [(1, 4, 6), (1, 8, 4), (1, 4, 6)]
    images = [torch.from_numpy(tiny_models.image(grid, n)) for n, grid in enumerate(grids)]
    inputs = family.vision_inputs(images, grids, "cpu", torch.float32)
    one_call = model.model.get_image_features(
        inputs["pixel_values"],
        inputs["image_grid_thw"],
        **attention.vision_segments(grids, "cpu"),
    ).pooler_output
    one_by_one = model.model.get_image_features(
        inputs["pixel_values"], inputs["image_grid_thw"]
    ).pooler_output
    torch.testing.assert_close(torch.cat(one_call), torch.cat(one_by_one), rtol=0, atol=1e-5)


def test_windows_in_one_call_are_what_they_are_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Qwen2.5-VL: a layer within windows of 8 x 8 patches, then one within frames."""
    vision = {
        **{"depth": 2, "hidden_size": 32, "out_hidden_size": 64, "intermediate_size": 48},
        **{"num_heads": 2, "initializer_range": 0.15},
        **{"fullatt_block_indexes": [1], "window_size": 112},
    }
    config = {**tiny_models.CONFIG, "vision_config": vision}
    qwen2_5_vl.build_model(config, tiny_models.tokenizer(), tmp_path / "m", 0)
    model = qwen2_5_vl.load_model(tmp_path / "m", torch.float32, "cpu")
    grids = [(1, 20, 18), (1, 4, 6)]
    images = [torch.from_numpy(tiny_models.image(grid, n)) for n, grid in enumerate(grids)]
    calls: list[int] = []
    attend = attention._Rows.attend

    def counted(*given: torch.Tensor) -> torch.Tensor:
        calls.append(len(given[3]) - 1)
        return attend(*given)

    monkeypatch.setattr(attention._Rows, "attend", staticmethod(counted))
    found = []
    for segments in (False, True):
        inputs = vision_keywords(qwen2_5_vl, images, grids, "cpu", segments=segments)
        found.append(torch.cat(model.model.get_image_features(**inputs).pooler_output))
    torch.testing.assert_close(*found, rtol=0, atol=1e-5)
    assert calls == [9 + 1, 2]
