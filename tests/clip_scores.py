"""CLIP scores by the scorer, and by a straight line of steps beside it; rows to score."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file

from clip_models import CONFIG, PIXELS
from shardline.parallel import Workers
from shardline.scorers import clip_quality as scorer
from shardline.scoring import Run


def scores(files, model, threads=1, **options):
    with Workers(threads) as workers:
        run = Run(model=model, device="cpu", threads=threads, workers=workers)
        return list(scorer.score(files, {**scorer.DEFAULTS, **options}, run))


@cache
def weights(folder: Path) -> Any:
    import open_clip

    net = open_clip.CLIP(**CONFIG)
    net.load_state_dict(load_file(folder / "open_clip_model.safetensors"))
    return net.eval(), open_clip.SimpleTokenizer(context_length=24)


def straight_line(file: Path, folder: Path) -> tuple[float, float]:
    """Both cosines of one image, by other means: no batch, no cast to 64 bits, no `clip`."""
    from torchvision import transforms

    net, tokenizer = weights(folder)
    side = CONFIG["vision_cfg"]["image_size"]
    prepare = transforms.Compose(
        [
            transforms.Resize(side, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(side),
            transforms.ToTensor(),
            transforms.Normalize(PIXELS["mean"], PIXELS["std"]),
        ]
    )
    with torch.no_grad():
        image = net.encode_image(prepare(Image.open(file).convert("RGB"))[None])[0]
        image = image / image.norm()
        cosines = []
        for prompts in (scorer.DEFAULTS["high"], scorer.DEFAULTS["low"]):
            total = sum(net.encode_text(tokenizer([prompt]))[0] for prompt in prompts)
            mean = total / len(prompts)
            cosines.append(float(image @ (mean / mean.norm())))
    return cosines[0], cosines[1]


def row(image, number):
    says = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A vase."}]
    return {"id": str(number), "image": image, "conversations": says}
