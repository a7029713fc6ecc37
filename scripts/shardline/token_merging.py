"""Token merging in a CLIP vision tower: between attention and MLP each layer joins like patches.

Of a layer's tokens the even places are set A, the odd ones B; the class token, place 0, is in A.
Each A has an edge to the B whose key is most like its own; the A at the ``r`` strongest edges are
averaged into their B, weighted by how many patches each token stands for. What is left is [A, B],
in order within each. Attention counts a token as often as it stands for patches: the logarithm of
that number is added to the logits of its key.

Equal edges: the A and the B that come first win. ``r`` follows from the size of the picture alone
(`llava_vision.merged_a_layer`), so that all shapes are known beforehand; where it is 0 the tower is
the stock one, bit for bit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.nn.functional import normalize, scaled_dot_product_attention
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling
from transformers.models.clip.modeling_clip import CLIPAttention, CLIPEncoder, CLIPEncoderLayer
from transformers.models.llava.modeling_llava import LlavaModel

from shardline.llava_vision import Merging, merged_a_layer


class Match(NamedTuple):
    """Which tokens of A [n, a] are merged, and into which of B [n, b]."""

    order: torch.Tensor
    """int64 [n, a]: places in A: first the ``r`` that go, then those that stay, rising."""
    target: torch.Tensor
    """int64 [n, r]: the place in B that each of them goes to."""


@torch.no_grad()
def match(keys: torch.Tensor, merged: int) -> Match:
    """Choose what is merged.

    Args:
        keys: [n, tokens, size], of any length.
        merged: ``r``, below half the number of tokens.
    """
    with torch.autocast(keys.device.type, enabled=False):
        keys = normalize(_exact(keys), dim=-1)
        edges = keys[:, ::2] @ keys[:, 1::2].mT
    strength, target = edges.max(dim=-1)
    strength[:, 0] = -torch.inf  # the class token stays
    order = strength.argsort(dim=-1, descending=True, stable=True)
    gone, kept = order[:, :merged], order[:, merged:].sort(dim=-1).values
    return Match(torch.cat([gone, kept], dim=-1), target.gather(1, gone))


def merge(
    tokens: torch.Tensor, sizes: torch.Tensor | None, found: Match
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens [n, t - r, width] and their sizes [n, t - r] after merging.

    Args:
        tokens: [n, t, width].
        sizes: [n, t], patches that each stands for; None: one each.
    """
    dtype, tokens = tokens.dtype, _exact(tokens)
    merged, targets = found.target.shape[1], tokens.shape[1] // 2
    with torch.autocast(tokens.device.type, enabled=False):
        if sizes is None:
            sizes = tokens.new_ones(tokens.shape[:2])
        even = tokens[:, ::2].gather(1, found.order[..., None].expand(-1, -1, tokens.shape[-1]))
        even_sizes = sizes[:, ::2].gather(1, found.order)
        # A product with ones and zeros: on CUDA sums by index are not repeatable.
        places = torch.arange(targets, device=tokens.device)
        share = (places[:, None] == found.target[:, None]).to(tokens.dtype)
        share = share * even_sizes[:, None, :merged]
        odd_sizes = sizes[:, 1::2]
        grown = odd_sizes + share.sum(dim=-1)
        odd = odd_sizes[..., None] * tokens[:, 1::2] + share @ even[:, :merged]
        joined = torch.cat([even[:, merged:], odd / grown[..., None]], dim=1)
    return joined.to(dtype), torch.cat([even_sizes[:, merged:], grown], dim=1)


def _exact(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in fp32, or fp64 where it is."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


class MergingAttention(CLIPAttention):
    """CLIP's attention, which also gives the mean of its heads' keys."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        sizes: torch.Tensor | None = None,
        merging: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Args: ``sizes`` [n, t], patches that each token stands for; None: one each."""
        if not merging:
            return super().forward(hidden_states, attention_mask, **kwargs)
        heads = (*hidden_states.shape[:-1], -1, self.head_dim)
        query, key, value = (
            projection(hidden_states).view(heads).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        attended = scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=None if sizes is None else sizes.log().to(query.dtype)[:, None, None],
            dropout_p=self.dropout if self.training else 0.0,
            scale=self.scale,
        )
        output = self.out_proj(attended.transpose(1, 2).flatten(2))
        return output, _exact(key.detach()).mean(dim=1)


class MergingLayer(CLIPEncoderLayer):
    """A block of the tower that merges ``merged`` tokens between attention and MLP."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        sizes: torch.Tensor | None = None,
        merged: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Tokens and sizes that are left; where ``merged`` is None, what the stock block gives."""
        if merged is None:
            return super().forward(hidden_states, attention_mask, **kwargs)
        attended, keys = self.self_attn(self.layer_norm1(hidden_states), sizes=sizes, merging=True)
        left, sizes = merge(hidden_states + attended, sizes, match(keys, merged))
        return left + self.mlp(self.layer_norm2(left)), sizes


class MergingEncoder(CLIPEncoder):
    """The blocks of a tower that merges as its attribute ``merging`` says."""

    merging: Merging

    def forward(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        merged: int | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """Args: ``merged``: tokens a layer instead of what ``merging`` says; 0: keep them all."""
        if merged is None:
            merged = merged_a_layer(inputs_embeds.shape[1] - 1, self.merging)
        if not merged:
            return super().forward(inputs_embeds, attention_mask, **kwargs)
        tokens, sizes = inputs_embeds, None
        for layer in self.layers:
            fewer = min(merged, (tokens.shape[1] - 1) // 2)
            tokens, sizes = layer(tokens, attention_mask, sizes, fewer, **kwargs)
        return BaseModelOutput(last_hidden_state=tokens)


class MergingLlava(LlavaModel):
    """A LLaVA model whose tower can keep some frames whole."""

    def get_image_features(
        self, pixel_values: torch.Tensor, *args: Any, image_sizes: Any = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """Features [tokens, width] of each frame, in order.

        Args:
            image_sizes: bool [frames], those that stay whole; None: none does. (A keyword that
                stock forwards hand on.)
        """
        forward = super().get_image_features
        if image_sizes is None:
            return forward(pixel_values, *args, **kwargs)
        whole = image_sizes.tolist()
        features: list[torch.Tensor] = [pixel_values] * len(whole)
        for kind, options in ((True, {"merged": 0}), (False, {})):
            places = [place for place, this in enumerate(whole) if this == kind]
            if places:
                output = forward(pixel_values[places], *args, **options, **kwargs)
                for place, rows in zip(places, output.pooler_output, strict=True):
                    features[place] = rows
        return BaseModelOutputWithPooling(pooler_output=features)


SWAPPED = {
    CLIPAttention: MergingAttention,
    CLIPEncoderLayer: MergingLayer,
    CLIPEncoder: MergingEncoder,
}


def merge_tokens(model: torch.nn.Module, merging: Merging) -> None:
    """Give a LLaVA model's vision tower token merging, in place.

    Its modules become ones of subclasses: names and weights stay, and a deep copy merges too.
    """
    model.model.__class__ = MergingLlava
    for module in model.model.vision_tower.modules():
        module.__class__ = SWAPPED.get(type(module), type(module))
        if isinstance(module, MergingEncoder):
            module.merging = merging
