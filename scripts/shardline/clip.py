"""CLIP models in a folder, and how near images are to sides of prompts.

A folder holds open_clip's files (``open_clip_config.json``, ``open_clip*.safetensors``) or those of
a Hugging Face ``CLIPModel``, whose pictures are resized and cropped as open_clip does it. Nothing
is downloaded.

What an image gets depends neither on the number of cores nor on the images around it: see
`forwards`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError

from shardline import lean
from shardline.errors import DataError
from shardline.files import read_json
from shardline.forwards import in_batches
from shardline.images import decode_audited
from shardline.scoring import Run

if TYPE_CHECKING:
    import torch

OPEN_CLIP_CONFIG = "open_clip_config.json"


@dataclass(frozen=True)
class Clip:
    """A model: what embeds a batch of pixels, what embeds texts, what prepares a picture.

    ``transform`` is torchvision's: resize and crop first, then to a tensor and normalise.
    """

    embed_pixels: Callable[[torch.Tensor], torch.Tensor]
    embed_texts: Callable[[list[str]], torch.Tensor]
    transform: Any
    device: str


def load_clip(folder: Path, device: str) -> Clip:
    """Load a CLIP model from its folder, to be run in 32 bits.

    Raises:
        DataError: the folder holds no CLIP model, or one without safetensors.
    """
    lean.without(*lean.HEAVY)
    try:
        if (folder / OPEN_CLIP_CONFIG).is_file() and any(folder.glob("open_clip*.safetensors")):
            return _load_open_clip(folder, device)
        if _model_type(folder) == "clip" and any(folder.glob("*.safetensors")):
            return _load_hugging_face(folder, device)
    except (OSError, RuntimeError, ValueError, LookupError, TypeError, SafetensorError) as error:
        raise DataError(f"{folder}: the CLIP model does not load: {error}") from None
    raise DataError(
        f"{folder} holds no CLIP model: it needs {OPEN_CLIP_CONFIG} and open_clip*.safetensors, or "
        "the config.json and *.safetensors of a Hugging Face CLIPModel"
    )


def similarities(
    files: Iterable[Path], sides: Sequence[Sequence[str]], run: Run
) -> Iterator[list[float]]:
    """The cosine of each image with each side of prompts, in the order of ``files``.

    A side's direction is the mean of its prompts' text embeddings, as the model gives them, brought
    to length 1 only then; an image's embedding is brought to length 1.

    Raises:
        DataError: an image is gone or is no image any more; ``run.model`` is no CLIP model.
    """
    with _one_thread():
        clip = load_clip(run.model, run.device)
        directions = np.stack([_side(clip, list(prompts)) for prompts in sides])
        for embedding in embed_images(clip, files, run):
            yield (directions @ embedding).tolist()


def _side(clip: Clip, prompts: list[str]) -> np.ndarray:
    """A side's direction, float64 [dimensions] of length 1."""
    import torch

    with torch.inference_mode():
        mean = clip.embed_texts(prompts).double().mean(0).cpu().numpy()
    return mean / np.linalg.norm(mean)


def embed_images(clip: Clip, files: Iterable[Path], run: Run) -> Iterator[np.ndarray]:
    """Each image's embedding, float64 [dimensions] of length 1: processes decode, threads embed."""
    from torchvision.transforms import Normalize, ToTensor

    steps = clip.transform.transforms
    resize = [step for step in steps if not isinstance(step, ToTensor | Normalize)]
    (normalise,) = (step for step in steps if isinstance(step, Normalize))
    pictures = run.workers.stream(partial(_picture, resize), map(str, files), name=str)
    yield from in_batches(pictures, partial(_embed, clip, normalise), run)


def _picture(resize: Sequence[Callable[[Any], Any]], path: str) -> np.ndarray:
    """An image file as the model sees it, uint8 [height, width, 3]."""
    image = decode_audited(path)
    for step in resize:
        image = step(image)
    return np.asarray(image)


def _embed(clip: Clip, normalise: Any, batch: np.ndarray) -> np.ndarray:
    """Embeddings of pictures, float64 [pictures, dimensions], each of length 1."""
    import torch

    with torch.inference_mode():
        pixels = torch.from_numpy(batch).to(clip.device).permute(0, 3, 1, 2).contiguous()
        found = clip.embed_pixels(normalise(pixels.float().div_(255)))
        embeddings = found.double().cpu().numpy()
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Let each of torch's operations use one thread; GPUs do not mind."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _load_open_clip(folder: Path, device: str) -> Clip:
    import open_clip

    name = f"local-dir:{folder}"
    model, transform = open_clip.create_model_from_pretrained(name, device=device)
    model.eval()
    tokenizer = open_clip.get_tokenizer(name)
    return Clip(
        embed_pixels=model.encode_image,
        embed_texts=lambda texts: model.encode_text(tokenizer(texts).to(device)),
        transform=transform,
        device=device,
    )


def _load_hugging_face(folder: Path, device: str) -> Clip:
    import torch
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from transformers import CLIPModel, CLIPTokenizerFast

    model = CLIPModel.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
    )
    model.to(device).eval()
    tokenizer = CLIPTokenizerFast.from_pretrained(folder, local_files_only=True)
    prepared = read_json(folder / "preprocessor_config.json")

    def embed_pixels(pixels: torch.Tensor) -> torch.Tensor:
        return model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)

    def embed_texts(texts: list[str]) -> torch.Tensor:
        longest = model.config.text_config.max_position_embeddings
        tokens = tokenizer(
            texts, padding=True, truncation=True, max_length=longest, return_tensors="pt"
        ).to(device)
        return model.text_projection(model.text_model(**tokens).pooler_output)

    seen = PreprocessCfg(
        size=model.config.vision_config.image_size,
        mean=tuple(prepared["image_mean"]),
        std=tuple(prepared["image_std"]),
    )
    transform = image_transform_v2(seen, is_train=False)
    return Clip(
        embed_pixels=embed_pixels, embed_texts=embed_texts, transform=transform, device=device
    )


def _model_type(folder: Path) -> str | None:
    config = folder / "config.json"
    return read_json(config).get("model_type") if config.is_file() else None
