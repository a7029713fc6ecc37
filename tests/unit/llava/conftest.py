"""Raw data with three pictures."""

from __future__ import annotations

import pytest

from raw_datasets import picture, save


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    for number in range(3):
        save(picture(number), folder / f"a/{number}.png")
    return folder
