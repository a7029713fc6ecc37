"""Contact sheets: many small pictures in one, each with two lines below it.

The bytes depend on the pictures, the captions and the version of Pillow only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from PIL import Image, ImageDraw, ImageFont

from shardline.embedded import read_medium
from shardline.errors import DataError
from shardline.image_files import BadImage
from shardline.images import decode_rgb

COLUMNS = 6
PICTURE = (168, 126)  # pixels
GAP = 10
LINE = 15
LINES = 2
PAPER, FRAME, INK, SOFT = "#f6f6f4", "#e2e3e4", "#1c2024", "#5d666f"
QUALITY = 82


@dataclass(frozen=True)
class Tile:
    """One picture: its file below the folder of raw data, and up to two lines of text."""

    path: str
    lines: tuple[str, ...]


def draw_sheet(raw: Path, tiles: Sequence[Tile], group: int = 1) -> Image.Image:
    """Pictures from left to right and from top to bottom, each whole, in a cell of its own.

    ``group`` pictures stand nearer to each other than to the next.
    """
    width, height = PICTURE[0] + GAP, PICTURE[1] + LINES * LINE + GAP
    between = GAP if group > 1 else 0
    columns = min(COLUMNS, len(tiles))
    rows = -(-len(tiles) // COLUMNS)
    size = (columns * width + (columns - 1) // group * between + GAP, rows * height + GAP)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(12)
    for index, tile in enumerate(tiles):
        column, row = index % COLUMNS, index // COLUMNS
        left, top = GAP + column * width + column // group * between, GAP + row * height
        draw.rectangle((left, top, left + PICTURE[0] - 1, top + PICTURE[1] - 1), FRAME)
        if picture := _picture(raw / tile.path):
            corner = (left + (PICTURE[0] - picture.width) // 2,)
            corner += (top + (PICTURE[1] - picture.height) // 2,)
            sheet.paste(picture, corner)
        else:
            middle = (left + PICTURE[0] / 2, top + PICTURE[1] / 2)
            draw.text(middle, "cannot be read any more", SOFT, font, anchor="mm")
        for number, line in enumerate(tile.lines[:LINES]):
            place = (left, top + PICTURE[1] + 3 + number * LINE)
            draw.text(place, _fitting(line, font), SOFT if number else INK, font)
    return sheet


def save_sheet(sheet: Image.Image, file: IO[bytes]) -> None:
    """Write a sheet as JPEG, in full colour resolution for the sake of the text."""
    sheet.save(file, "JPEG", quality=QUALITY, subsampling=0, optimize=True)


def _picture(path: Path) -> Image.Image | None:
    try:
        image = decode_rgb(read_medium(path))
    except (OSError, BadImage, DataError):
        return None
    image.thumbnail(PICTURE)
    return image


def _fitting(text: str, font: ImageFont.FreeTypeFont) -> str:
    """A text cut from its left until it fits below a picture: names differ at their ends."""
    text = "".join(letter if letter.isprintable() else "?" for letter in text)[-200:]
    if font.getlength(text) <= PICTURE[0]:
        return text
    while text and font.getlength("…" + text) > PICTURE[0]:
        text = text[1:]
    return "…" + text
