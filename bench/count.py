"""How long a hundred thousand images take to be counted: by what is known of them, and decoded.

Ours is what `shardline estimate` does before anything is tokenised: it reads the converted samples,
which have the sizes that the audit read from headers, and goes by the characters of the text, or
counts its tokens once the model is there. Theirs decodes each picture to know its size; it is
measured on some of them. Both are processor seconds of one thread.
"""

from __future__ import annotations

import io
import json
import tempfile
import time
from pathlib import Path

from conversations import LIMITS, conversations, write_model
from PIL import Image
from plan import KINDS
from tokenizers import Tokenizer

from shardline.estimate import dataset_lengths
from shardline.families import qwen2_vl as family
from shardline.files import canonical_json, compressed, write_json, write_parts
from shardline.tasks import chat

IMAGES = 100_000
DECODED = 100
SHARD = 10_000
EXACT = 10_000  # images whose text goes through the tokenizer


def measure(images: int = IMAGES) -> dict[str, float]:
    """Images a second and core of both, and their ratio."""
    made = conversations([kind for kind in KINDS if kind.pictures], DECODED)
    begin = time.process_time()
    for _, data in made:
        Image.open(io.BytesIO(data)).convert("RGB")
    theirs = (time.process_time() - begin) * images / len(made)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, "model")
        write_model(model, made)
        rows = [sample.to_json() for sample, _ in made]
        shards = []
        for start in range(0, images, SHARD):
            name = f"samples-{start // SHARD:05}.jsonl.zst"
            lines = [
                canonical_json({**rows[number % len(rows)], "id": f"mix:rows#{number}"}) + "\n"
                for number in range(start, min(start + SHARD, images))
            ]
            write_parts(Path(folder, name), [compressed("".join(lines).encode())])
            shards.append({"name": name})
        manifest = Path(folder, "manifest.json")
        write_json(manifest, {"shards": shards})
        ours = _seconds(manifest, images)
        write_json(manifest, {"shards": shards[: -(-EXACT // SHARD)]})
        exact = _seconds(manifest, min(EXACT, images), family.load_tokenizer(model))
    return {
        "estimate.images": images,
        "estimate.images_per_second_per_core": round(images / ours, 1),
        "estimate.decoding_images_per_second_per_core": round(images / theirs, 1),
        "estimate.ratio": round(theirs / ours, 1),
        "estimate.exact_text_images_per_second_per_core": round(min(EXACT, images) / exact, 1),
    }


def _seconds(manifest: Path, images: int, tokenizer: Tokenizer | None = None) -> float:
    """Processor seconds to count a dataset."""
    begin = time.process_time()
    lengths = dataset_lengths(
        manifest, family=family, task=chat, tokenizer=tokenizer, tokens=LIMITS
    )
    seconds = time.process_time() - begin
    if len(lengths.ids) != images:
        raise SystemExit(f"{len(lengths.ids)} of {images} images were counted")
    return seconds


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
