"""Asking a model one question about one image, as evaluation asks thousands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shardline import lean, registry
from shardline.errors import UserError
from shardline.images import BadImage, decode_rgb
from shardline.merging_family import family_of_model
from shardline.samples import Box, Medium, Sample


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model's folder, and the options it was trained and evaluated with.

    ``options``: of `predict_benchmark`: ``family``, ``task``, ``tokens``, ``max_new_tokens``,
    ``plugins``.
    """

    folder: Path
    options: dict[str, Any]


def ask(model: Model, image: Path, prompt: str, *, raw: bool, device: str | None) -> dict[str, Any]:
    """The model's answer.

    Args:
        prompt: an element's description, or with ``raw`` the user's whole turn after the image.
        device: ``cpu`` or ``cuda``; None takes a GPU if there is one.

    Returns:
        ``answer``, ``new_tokens``, ``width`` and ``height`` of the image in pixels, upright; and
        unless ``raw``, ``point`` as fractions of them and ``pixel``, both None if unreadable.

    Raises:
        UserError: the image cannot be read, or the model is not there or not whole.
    """
    _check_folder(model.folder)
    try:
        picture = decode_rgb(image.read_bytes())
    except OSError as error:
        raise UserError(f"{image}: {error.strerror}") from None
    except BadImage as problem:
        raise UserError(f"{image}: {problem}") from None
    family = registry.load("families", model.options["family"], model.options["plugins"])
    family = family_of_model(family, model.folder)
    task = registry.load("tasks", model.options["task"], model.options["plugins"])
    options = model.options["tokens"]
    seen = [family.seen_size(family.media_grid(*picture.size, None, options))]
    messages = (
        _turn(prompt) if raw else task.question(_sample(picture.size, prompt), 0, options, seen)
    )

    lean.without(*lean.HEAVY)
    import numpy as np
    import torch
    from transformers.utils import logging

    from shardline.inference import Answerer, Prompter, choose_dtype

    logging.disable_progress_bar()
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = family.load_tokenizer(model.folder)
    weights = family.load_model(model.folder, choose_dtype(None, model.folder), device)
    prompter = Prompter(family, task, tokenizer, options, Path())
    answerer = Answerer(weights, family, tokenizer, model.options["max_new_tokens"])
    answer = answerer([prompter.prompt(messages, [prompter.resize(np.array(picture))])])[0]
    width, height = picture.size
    found = {
        "answer": answer.text,
        "new_tokens": answer.new_tokens,
        "width": width,
        "height": height,
    }
    if raw:
        return found
    point = task.parse(answer.text, options, seen)
    pixel = None if point is None else [round(point[0] * width), round(point[1] * height)]
    return found | {"point": point, "pixel": pixel}


def _check_folder(folder: Path) -> None:
    if (folder / "adapter_config.json").is_file():
        raise UserError(f"{folder} is an adapter, which needs its base; give the merged model")
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{folder}: no model there (no config.json); a stage's model is exported by: "
            "snakemake --profile profiles/local models"
        )


def _turn(text: str) -> list[dict[str, Any]]:
    content = [{"type": "image"}, {"type": "text", "text": text}]
    return [{"role": "user", "content": content}]


def _sample(size: tuple[int, int], label: str) -> Sample:
    """A sample that asks for one element; where it is, only the question's reader knows."""
    medium = Medium(kind="image", path="", width=size[0], height=size[1])
    return Sample(
        id="question",
        dataset="",
        media=[medium],
        messages=_turn(label),
        boxes=[Box(label=label, xyxy=[0, 0, 1, 1])],
    )
