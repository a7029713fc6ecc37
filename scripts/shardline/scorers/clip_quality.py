"""CLIP quality: how much nearer an image is to prompts of good pictures than to those of bad ones.

``score = v·t_high - v·t_low``, where ``v`` is the image's embedding and ``t`` the mean of a side's
text embeddings, each of length 1 in the end (see `clip`). The prompts are about finds of pottery;
recipes on anything else bring their own. A score means something only beside others of the same
model and prompts: most lie within a tenth of 0. ``share`` below 1 scores that share of the images,
for a quick look.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from shardline.clip import similarities
from shardline.errors import ConfigError
from shardline.scoring import Run

DEFAULTS: dict[str, Any] = {
    "model": "hub://laion/CLIP-ViT-B-32-laion2B-s34B-b79K@1a25a446712ba5ee05982a381eed697ef9b435cf",
    "high": [
        "an ancient vase in one piece, seen from the front",
        "a museum photograph of a well preserved vase",
        "an undamaged pottery vessel standing upright",
        "the full body of a ceramic jar, from rim to foot",
        "a vase with all its handles, neck and base",
        "a sharp, evenly lit picture of one whole vessel",
        "a restored amphora with an unbroken surface",
        "a painted vase facing the camera on a plain background",
    ],
    "low": [
        "a vase broken into many pieces",
        "loose pottery fragments on a table",
        "a single sherd of a ceramic vessel",
        "a vessel with large parts missing",
        "the inside of a cracked bowl",
        "a heap of excavated potsherds",
        "only the handle or the foot of a broken jar",
        "a blurred picture of a damaged vase",
    ],
    "share": 1.0,
}
MODEL = "model"


def check(options: dict[str, Any]) -> None:
    """See that both sides have prompts, and the share is one.

    Raises:
        ConfigError: they have not, or it is none.
    """
    share = options["share"]
    if type(share) not in (int, float) or not 0 < share <= 1:
        raise ConfigError(f"share: {share!r}; allowed: above 0, up to 1")
    for side in ("high", "low"):
        prompts = options[side]
        texts = isinstance(prompts, list) and all(isinstance(text, str) for text in prompts)
        if not texts or not prompts or not all(text.strip() for text in prompts):
            raise ConfigError(f"{side}: {prompts!r}; allowed: a list of at least one text")


def score(files: Sequence[Path], options: dict[str, Any], run: Run) -> Iterator[dict[str, float]]:
    """``score`` and the cosines with both sides, ``high`` and ``low``, of each image file."""
    for high, low in similarities(files, (options["high"], options["low"]), run):
        yield {"score": high - low, "high": high, "low": low}
