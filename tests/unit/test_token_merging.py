"""Token merging in the vision tower, against a straight-line implementation of one image."""

from __future__ import annotations

import copy
import math

import pytest
import tiny_families
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlavaConfig, LlavaForConditionalGeneration

from shardline.attention import NAME
from shardline.families.llava import Merging, kept_tokens, vision_inputs
from shardline.token_merging import match, merge_tokens


def build(layers: int, side: int, width: int = 8, seed: int = 0) -> torch.nn.Module:
    """A model in fp64 whose tower sees ``side`` x ``side`` patches, and hardly a text model."""
    torch.manual_seed(seed)
    tiny = tiny_families.CONFIGS["llava"]
    config = LlavaConfig(
        text_config={**tiny["text_config"], "hidden_size": 8, "num_hidden_layers": 1,
                     "num_key_value_heads": 4, "vocab_size": 8, "model_type": "llama"},
        vision_config={**tiny["vision_config"], "hidden_size": width,
                       "intermediate_size": 2 * width, "num_hidden_layers": layers,
                       "image_size": 14 * side, "patch_size": 14,
                       "model_type": "clip_vision_model"},
        image_token_index=1,
        attn_implementation=NAME,
    )  # fmt: skip
    model = LlavaForConditionalGeneration(config).double().eval()
    for parameter in model.model.vision_tower.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def features(model: torch.nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """What the projector is given, [n, tokens, width]."""
    tower = model.model.vision_tower
    return tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]


def merging(model: torch.nn.Module, ratio: float, slowfast: bool = False) -> torch.nn.Module:
    """A copy that merges tokens."""
    merged = copy.deepcopy(model)
    layers = model.config.vision_config.num_hidden_layers
    merge_tokens(merged, Merging(ratio, layers, slowfast))
    return merged


def straight(model: torch.nn.Module, image: torch.Tensor, ratio: float) -> torch.Tensor:
    """The features [kept, width] of one image [3, side, side], step by step."""
    config = model.config.vision_config
    weights = dict(model.model.vision_tower.named_parameters())
    heads, layers = config.num_attention_heads, config.num_hidden_layers

    def linear(values: torch.Tensor, name: str) -> torch.Tensor:
        return values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(values: torch.Tensor, name: str) -> torch.Tensor:
        centred = values - values.mean(-1, keepdim=True)
        spread = (centred**2).mean(-1, keepdim=True) + config.layer_norm_eps
        return centred / spread.sqrt() * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    patch, count = config.patch_size, config.image_size // config.patch_size
    flat = weights["embeddings.patch_embedding.weight"].flatten(1)
    rows = [weights["embeddings.class_embedding"]]
    for line in range(count):
        for column in range(count):
            top, left = line * patch, column * patch
            rows.append(flat @ image[:, top : top + patch, left : left + patch].flatten())
    tokens = torch.stack(rows) + weights["embeddings.position_embedding.weight"]
    tokens = norm(tokens, "pre_layrnorm")
    sizes = [1.0] * len(tokens)
    fewer = int(count * count * (1 - ratio) / layers)
    width = config.hidden_size // heads
    for layer in range(layers - 1):
        name = f"encoder.layers.{layer}"
        read = norm(tokens, f"{name}.layer_norm1")
        query, key, value = (linear(read, f"{name}.self_attn.{part}_proj") for part in "qkv")
        seen = []
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            logits = query[:, part] @ key[:, part].T / math.sqrt(width)
            logits = logits + torch.tensor(sizes, dtype=logits.dtype).log()
            seen.append(logits.softmax(-1) @ value[:, part])
        tokens = tokens + linear(torch.cat(seen, dim=1), f"{name}.self_attn.out_proj")

        mean = sum(key[:, head * width : (head + 1) * width] for head in range(heads)) / heads
        mean = (mean / mean.norm(dim=1, keepdim=True)).tolist()
        evens, odds = range(0, len(tokens), 2), range(1, len(tokens), 2)
        edges = []
        for even in list(evens)[1:]:
            best = None
            for odd in odds:
                likeness = sum(a * b for a, b in zip(mean[even], mean[odd], strict=True))
                if best is None or likeness > best[0]:
                    best = (likeness, odd)
            edges.append((best[0], even, best[1]))
        edges.sort(key=lambda edge: (-edge[0], edge[1]))
        goes = {even: odd for _, even, odd in edges[: min(fewer, (len(tokens) - 1) // 2)]}
        left, counts = [], []
        for even in evens:
            if even not in goes:
                left.append(tokens[even])
                counts.append(sizes[even])
        for odd in odds:
            group = [odd, *(even for even in goes if goes[even] == odd)]
            whole = sum(sizes[place] for place in group)
            left.append(sum(sizes[place] * tokens[place] for place in group) / whole)
            counts.append(whole)
        tokens, sizes = torch.stack(left), counts

        hidden = linear(norm(tokens, f"{name}.layer_norm2"), f"{name}.mlp.fc1")
        hidden = hidden * torch.sigmoid(1.702 * hidden)
        tokens = tokens + linear(hidden, f"{name}.mlp.fc2")
    assert sum(sizes) == count * count + 1
    return tokens[1:]


@pytest.mark.parametrize(
    ("layers", "side", "ratio"),
    [(3, 8, 0.5), (3, 8, 0.1), (5, 7, 0.3), (6, 9, 0.01), (2, 3, 0.4), (4, 6, 0.8)],
)
def test_features_and_gradients_are_those_of_a_straight_line_implementation(layers, side, ratio):
    model = build(layers, side, seed=side)
    pixels = torch.randn(3, 3, 14 * side, 14 * side, dtype=torch.float64)
    merged = merging(model, ratio)
    found = features(merged, pixels)
    expected = torch.stack([straight(model, image, ratio) for image in pixels])
    kept = kept_tokens(side * side, Merging(ratio, layers))
    assert found.shape == expected.shape == (3, kept, 8) and kept < side * side
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    toward = torch.randn_like(found)
    (found * toward).sum().backward()
    (expected * toward).sum().backward()
    moved = 0
    pairs = zip(merged.named_parameters(), model.parameters(), strict=True)
    for (name, ours), theirs in pairs:
        if theirs.grad is not None:
            assert ours.grad is not None, name
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-8, atol=1e-8, msg=name)
            moved += 1
    assert moved == 5 + 16 * (layers - 1)


def test_the_published_tower_keeps_what_the_table_says():
    """378 pixels in 32 layers: 729 patches, of which 31 layers' merges count."""
    model = build(32, 27)
    pixels = torch.randn(1, 3, 378, 378, dtype=torch.float64)
    found = {}
    with torch.no_grad():
        for ratio in (1.0, 0.8, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.01):
            found[ratio] = features(merging(model, ratio), pixels).shape[1]
            assert found[ratio] == kept_tokens(729, Merging(ratio, 32))
    assert list(found.values()) == [729, 605, 388, 326, 264, 171, 109, 78, 47]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_ratio_that_merges_nothing_is_the_stock_tower_bit_for_bit(dtype):
    model = build(3, 8).to(dtype)
    pixels = torch.randn(2, 3, 112, 112, dtype=dtype)
    for ratio in (1.0, 0.97):
        merged = merging(model, ratio)
        found, expected = features(merged, pixels), features(model, pixels)
        assert torch.equal(found, expected)
        for owner in (merged, model):
            owner.zero_grad()
            features(owner, pixels).float().square().sum().backward()
        for ours, theirs in zip(merged.parameters(), model.parameters(), strict=True):
            assert (ours.grad is None) == (theirs.grad is None)
            assert ours.grad is None or torch.equal(ours.grad, theirs.grad)


def test_frames_of_a_batch_do_not_see_each_other():
    model = merging(build(4, 6), 0.2)
    pixels = torch.randn(5, 3, 84, 84, dtype=torch.float64)
    with torch.no_grad():
        together = features(model, pixels)
        alone = torch.cat([features(model, image[None]) for image in pixels])
        torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)
        pixels[3] = 1e6
        others = [0, 1, 2, 4]
        assert torch.equal(features(model, pixels)[others], together[others])


def test_of_equal_edges_the_first_win_and_the_class_token_stays():
    order, target = match(torch.ones(1, 9, 4), 3)
    assert order.tolist() == [[1, 2, 3, 0, 4]] and target.tolist() == [[0, 0, 0]]
    keys = torch.eye(8)[[0, 1, 2, 2, 3, 1, 1, 4]][None]
    order, target = match(keys, 2)  # of 2, 4 and 6 the first is like 3, the last like 1 and 5
    assert order.tolist() == [[1, 3, 0, 2]] and target.tolist() == [[1, 0]]
    order, target = match(keys, 0)
    assert order.tolist() == [[0, 1, 2, 3]] and target.shape == (1, 0)


def test_the_first_frame_of_a_video_stays_whole_in_every_batch():
    model = merging(build(3, 8), 0.3, slowfast=True)
    plain = merging(build(3, 8), 1.0)
    rule = Merging(0.3, 3, slowfast=True)
    grids = [(1, 8, 8), (3, 8, 8), (2, 8, 8), (1, 8, 8)]
    pictures = [torch.randint(0, 256, (t * 112, 112, 3), dtype=torch.uint8) for t, _, _ in grids]
    inputs = vision_inputs(pictures, grids, "cpu", torch.float64, merging=rule)
    with torch.no_grad():
        first, second = (
            model.model.get_image_features(**inputs, return_dict=True).pooler_output
            for _ in range(2)
        )
        tower = plain.model.get_image_features(inputs["pixel_values"], return_dict=True)
        images = vision_inputs(pictures[:1], grids[:1], "cpu", torch.float64, merging=rule)
        assert "image_sizes" not in images
        image = model.model.get_image_features(**images, return_dict=True).pooler_output[0]
    kept = kept_tokens(64, rule)
    assert [len(rows) for rows in first] == [kept, 64, kept, kept, 64, kept, kept]
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))
    for place in (1, 4):
        torch.testing.assert_close(first[place], tower.pooler_output[place])
    torch.testing.assert_close(first[0], image)


def test_checkpointing_and_autocast_change_nothing_but_rounding():
    model = merging(build(4, 8).float(), 0.4)
    pixels = torch.randn(2, 3, 112, 112)
    gradients = []
    for checkpointing in (False, True):
        model.zero_grad()
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        features(model, pixels).square().sum().backward()
        tower = model.model.vision_tower
        gradients.append([p.grad.clone() for p in tower.parameters() if p.grad is not None])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))
    with torch.autocast("cpu", torch.bfloat16):
        found = features(model, pixels)
    assert found.shape == features(model, pixels).shape and torch.isfinite(found).all()


def test_adapted_keys_decide_what_is_merged():
    model = merging(build(3, 8), 0.3)
    pixels = torch.randn(2, 3, 112, 112, dtype=torch.float64)
    before = features(model, pixels)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=r".*vision_tower.*\.k_proj"))
    for name, parameter in adapted.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=1.0)
    found = features(adapted.base_model.model, pixels)
    assert not torch.allclose(found, before)
    merged = features(adapted.merge_and_unload(), pixels)
    torch.testing.assert_close(found, merged)


@pytest.mark.slow
def test_a_merging_tower_is_one_graph_of_known_shapes():
    model = merging(build(3, 8).float(), 0.3)
    encoder = model.model.vision_tower.encoder
    embedded = torch.randn(2, 65, 8)
    compiled = torch.compile(encoder, backend="eager", fullgraph=True, dynamic=False)
    with torch.no_grad():
        expected = encoder(embedded).last_hidden_state
        torch.testing.assert_close(compiled(embedded).last_hidden_state, expected)
