"""A small CLIP model, pictures to score, and a dataset of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from clip_models import write_open_clip
from clip_scores import row
from raw_datasets import lock_and_convert, picture, save

SIZES = [(120, 80), (48, 48), (31, 300), (700, 490), (97, 131)]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_open_clip(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Twenty-one pictures of several sizes and modes; more than one batch, and no whole number."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(20):
        save(picture(number, SIZES[number % len(SIZES)]), folder / f"{number:02}.png")
    save(picture(20, (90, 60)).quantize(16), folder / "20.png")
    return sorted(folder.iterdir())


@pytest.fixture
def vases(tmp_path, pictures):
    """Results with a dataset of 21 pictures and two unreadable files."""
    folder = tmp_path / "vases"
    rows = []
    for number, file in enumerate(pictures):
        save(Image.open(file), folder / "images" / file.name)
        rows.append(row(f"images/{file.name}", number))
    (folder / "images/cut.png").write_bytes(pictures[0].read_bytes()[:200])
    (folder / "images/empty.png").write_bytes(b"")
    rows += [row("images/cut.png", 30), row("images/empty.png", 31)]
    (folder / "rows.json").write_text(json.dumps(rows))
    lock_and_convert(tmp_path / "results", "vases", folder, "llava", None)
    return tmp_path / "results"
