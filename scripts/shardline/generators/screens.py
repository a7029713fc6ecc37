"""Draw small, seeded UI screens with their grounding annotation, in the layout of a raw dataset.

The demo needs screens that anyone may redistribute and that a tiny model learns to read in
minutes. A screen is a wallpaper, a dock and a transparent window (family "desktop") or a browser
page (family "web"), in one theme; one to five elements of different kinds lie on a grid of cells.

Wallpapers shade red from left to right and green from top to bottom, and windows are transparent,
so colour tells the position everywhere: a vision tower trained from scratch needs such a cue, for
Qwen2-VL has no absolute position. Elements are asked in random order, so that their order tells
nothing about their place. Screens have one of three resolutions.

A screen depends only on the seed, its index and the options; one version of Pillow draws the same
bytes on every machine.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from shardline.errors import ConfigError

Colour = tuple[int, ...]
Box = tuple[int, int, int, int]

SCALE = 3  # everything is drawn this many times larger and averaged, which smooths text and curves
REDUCTIONS = (3, 2, 1)  # how much the drawing is reduced: to 140, 210 or 420 pixels a side
CELL = 28  # units; elements lie in the middle of cells, one visual token of Qwen2-VL each
SIZE = 5 * CELL  # units a side; the smallest screens have one pixel a unit
TILE = CELL // 2
SHADE_END = 7 * CELL  # where a wallpaper would reach its light end, beyond the screen's edge
DOCK = CELL
TITLE_BAR = 10
COUNTS = (1, 1, 2, 2, 2, 3, 3, 4, 5)  # elements a screen; screens with one teach what a point is


@dataclass(frozen=True)
class Theme:
    """Colours of a theme: of the wallpaper's dark and light end, and of what lies on it."""

    dark: Colour
    light: Colour
    bar: Colour
    ink: Colour
    radius: int


THEMES = {
    "aurora": Theme((20, 20, 128), (235, 235, 128), (255, 255, 255, 45), (255, 255, 255), 0),
    "ember": Theme((40, 20, 40), (250, 220, 40), (255, 240, 220, 45), (255, 240, 220), 3),
    "lagoon": Theme((20, 40, 190), (220, 250, 190), (230, 250, 255, 45), (230, 250, 255), 5),
    "night": Theme((5, 5, 60), (190, 190, 60), (0, 0, 0, 90), (200, 215, 255), 2),
}


@dataclass(frozen=True)
class Kind:
    """One kind of element; `size` is its width and height in units."""

    name: str
    role: str
    colour: Colour
    size: tuple[int, int]


KINDS = (
    Kind("Save", "button", (30, 160, 60), (22, 12)),
    Kind("Cancel", "button", (215, 30, 40), (22, 12)),
    Kind("Send", "button", (30, 90, 240), (22, 12)),
    Kind("Buy", "button", (255, 130, 0), (22, 12)),
    Kind("Search", "field", (255, 255, 255), (22, 12)),
    Kind("Mail", "icon", (60, 205, 250), (18, 18)),
    Kind("Music", "icon", (250, 60, 200), (18, 18)),
    Kind("Terminal", "icon", (15, 15, 15), (18, 18)),
)


@dataclass(frozen=True)
class Element:
    """An element placed on a screen; `box` is left, top, right, bottom in units."""

    kind: Kind
    instruction: str
    box: Box

    @property
    def data_type(self) -> str:
        """Whether the element shows its name ("text") or only a picture ("icon")."""
        return "text" if self.kind.role in ("button", "field") else "icon"


@dataclass(frozen=True)
class Screen:
    """A drawn screen, its theme's name and its family ("desktop" or "web").

    The elements' boxes are in pixels of the image.
    """

    image: Image.Image
    theme: str
    family: str
    elements: list[Element]


@cache
def font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Return Pillow's built-in font, `size` units high."""
    return ImageFont.load_default(size=SCALE * size)


class Pen:
    """Draws on a canvas SCALE times larger than the screen; coordinates are in units."""

    def __init__(self, image: Image.Image) -> None:
        """Draw on `image`, blending colours that have an alpha value."""
        self.draw = ImageDraw.Draw(image, "RGBA")

    def box(self, box: Box, fill: Colour, radius: int = 0, outline: Colour | None = None) -> None:
        """Fill the rectangle left, top, right, bottom."""
        left, top, right, bottom = (SCALE * value for value in box)
        corners = (left, top, right - 1, bottom - 1)
        self.draw.rounded_rectangle(corners, SCALE * radius, fill=fill, outline=outline, width=2)

    def shape(self, points: list[tuple[float, float]], fill: Colour) -> None:
        """Fill a polygon."""
        self.draw.polygon([(round(SCALE * x), round(SCALE * y)) for x, y in points], fill=fill)

    def disc(self, x: float, y: float, radius: float, fill: Colour) -> None:
        """Fill a circle."""
        corners = (x - radius, y - radius, x + radius, y + radius)
        self.draw.ellipse([round(SCALE * value) for value in corners], fill=fill)

    def text(self, x: float, y: float, text: str, fill: Colour, size: int = 9) -> None:
        """Write `text` with its middle at x, y."""
        middle = (round(SCALE * x), round(SCALE * y))
        self.draw.text(middle, text, fill=fill, font=font(size), anchor="mm")


def draw_mail(pen: Pen, x: int, y: int) -> None:
    """Draw a white envelope centred on x, y."""
    pen.box((x - 6, y - 4, x + 6, y + 5), (255, 255, 255))
    pen.shape([(x - 6, y - 4), (x + 6, y - 4), (x, y + 2)], (20, 90, 160))


def draw_music(pen: Pen, x: int, y: int) -> None:
    """Draw a white note centred on x, y."""
    pen.disc(x - 2, y + 4, 2.5, (255, 255, 255))
    pen.shape(
        [(x - 1, y - 6), (x + 4, y - 4), (x + 4, y - 1), (x, y - 3), (x, y + 4), (x - 1, y + 4)],
        (255,) * 3,
    )


def draw_terminal(pen: Pen, x: int, y: int) -> None:
    """Draw a green prompt centred on x, y."""
    pen.shape([(x - 6, y - 5), (x - 1, y - 1), (x - 6, y + 3), (x - 4, y - 1)], (90, 255, 120))
    pen.box((x, y + 3, x + 6, y + 5), (90, 255, 120))


GLYPHS: dict[str, Callable[[Pen, int, int], None]] = {
    "Mail": draw_mail,
    "Music": draw_music,
    "Terminal": draw_terminal,
}


def draw_element(pen: Pen, element: Element, theme: Theme) -> None:
    """Draw one element inside its box."""
    left, top, right, bottom = element.box
    x, y = (left + right) // 2, (top + bottom) // 2
    name, role, colour = element.kind.name, element.kind.role, element.kind.colour
    if role == "field":
        pen.box(element.box, colour, theme.radius, outline=(90, 90, 100))
        pen.text(x, y, name, (90, 90, 100), size=6)
    elif role == "button":
        pen.box(element.box, colour, theme.radius)
        pen.text(x, y, name, (255, 255, 255), size=8 if len(name) < 6 else 6)
    else:
        pen.box(element.box, colour, theme.radius)
        GLYPHS[name](pen, x, y)


@cache
def wallpaper(theme: Theme) -> Image.Image:
    """Tiles that shade from left to right (red) and from top to bottom (green)."""
    canvas = Image.new("RGB", (SCALE * SIZE, SCALE * SIZE))
    pen = Pen(canvas)
    for top in range(0, SIZE, TILE):
        for left in range(0, SIZE, TILE):
            colour = tuple(
                dark + (light - dark) * place // SHADE_END
                for dark, light, place in zip(theme.dark, theme.light, (left, top, 0), strict=True)
            )
            pen.box((left, top, left + TILE, top + TILE), colour)
    return canvas


def place(
    area: Box, kinds: list[Kind], taken: set, rng: np.random.Generator
) -> list[tuple[Kind, Box]]:
    """Place kinds at random free grid cells inside `area`; kinds that find no place are left out.

    `taken` marks the grid cells (row, column) in use and is updated.
    """
    first_row, first_column = -(-area[1] // CELL), -(-area[0] // CELL)
    free = [
        (row, column)
        for row in range(first_row, area[3] // CELL)
        for column in range(first_column, area[2] // CELL)
        if (row, column) not in taken
    ]
    placed = []
    for kind, number in zip(kinds, rng.permutation(len(free)), strict=False):
        row, column = free[number]
        taken.add((row, column))
        left = column * CELL + (CELL - kind.size[0]) // 2
        top = row * CELL + (CELL - kind.size[1]) // 2
        placed.append((kind, (left, top, left + kind.size[0], top + kind.size[1])))
    return placed


def draw_lines(pen: Pen, area: Box, theme: Theme, rng: np.random.Generator) -> None:
    """Draw faint lines of writing down `area`."""
    left, top, right, bottom = area
    for y in range(top + 3, bottom - 3, 7):
        end = int(rng.integers(left + (right - left) // 3, right))
        pen.box((left, y, end, y + 2), (*theme.ink, 45))


def desktop(
    pen: Pen, kinds: list[Kind], theme: Theme, rng: np.random.Generator
) -> list[tuple[Kind, Box]]:
    """Draw a window and a dock with icons; return the placed kinds."""
    dock, free = (
        ((0, SIZE - DOCK, SIZE, SIZE), (0, 0, SIZE, SIZE - DOCK)),
        ((0, 0, DOCK, SIZE), (DOCK, 0, SIZE, SIZE)),
        ((SIZE - DOCK, 0, SIZE, SIZE), (0, 0, SIZE - DOCK, SIZE)),
    )[int(rng.integers(0, 3))]
    pen.box(dock, theme.bar)
    width = int(rng.integers(80, free[2] - free[0] - 2))
    height = int(rng.integers(70, free[3] - free[1] - 2))
    left = int(rng.integers(free[0] + 1, free[2] - width))
    top = int(rng.integers(free[1] + 1, free[3] - height))
    window = (left, top, left + width, top + height)
    pen.box(window, (*theme.ink, 0), theme.radius, outline=(*theme.ink, 120))
    pen.box((left, top, left + width, top + TITLE_BAR), theme.bar, theme.radius)
    for index in range(3):
        pen.disc(left + 6 + 6 * index, top + 5, 1.8, (*theme.ink, 160))
    pen.box((left + 30, top + 4, left + width // 2 + 14, top + 6), (*theme.ink, 110))
    content = (left, top + TITLE_BAR - 5, left + width, top + height + 4)
    draw_lines(pen, content, theme, rng)
    icons = [kind for kind in kinds if kind.role == "icon"][: int(rng.integers(1, 3))]
    taken: set[tuple[int, int]] = set()
    placed = place(dock, icons, taken, rng)
    return placed + place(content, [kind for kind in kinds if kind not in icons], taken, rng)


def web(
    pen: Pen, kinds: list[Kind], theme: Theme, rng: np.random.Generator
) -> list[tuple[Kind, Box]]:
    """Draw a browser that fills the screen, with a side column; return the placed kinds."""
    pen.box((0, 0, SIZE, 14), theme.bar)
    for index in range(2):
        pen.disc(6 + 7 * index, 7, 2, (*theme.ink, 160))
    pen.box((20, 3, SIZE - 8, 11), (*theme.ink, 60), radius=4)
    pen.text(44, 7, "www.shop.org", (*theme.ink, 200), size=6)
    column = int(rng.integers(4, 26))
    left, right = (column, SIZE) if rng.integers(2) else (0, SIZE - column)
    pen.box((0, 14, left, SIZE) if left else (right, 14, SIZE, SIZE), theme.bar)
    draw_lines(pen, (left + 4, 18, right - 4, SIZE - 2), theme, rng)
    return place((left, 14, right, SIZE), kinds, set(), rng)


def draw_screen(seed: int, index: int, themes: list[str], least: int = 1) -> Screen:
    """Draw screen number `index` of the layout seed `seed`, in one of `themes`.

    Args:
        seed: layout seed.
        index: number of the screen.
        themes: names of themes.
        least: how many elements are placed at least, as far as there is room.
    """
    rng = np.random.default_rng([seed, index])
    name = themes[int(rng.integers(len(themes)))]
    theme = THEMES[name]
    family = ("desktop", "web")[int(rng.integers(2))]
    counts = [count for count in COUNTS if count >= least]
    count = counts[int(rng.integers(len(counts)))]
    kinds = [KINDS[number] for number in rng.permutation(len(KINDS))[:count]]
    canvas = wallpaper(theme).copy()
    pen = Pen(canvas)
    elements = [
        Element(kind, kind.name, box)
        for kind, box in (desktop if family == "desktop" else web)(pen, kinds, theme, rng)
    ]
    for element in elements:
        draw_element(pen, element, theme)
    reduction = REDUCTIONS[int(rng.integers(len(REDUCTIONS)))]
    shown = [
        replace(element, box=tuple(value * SCALE // reduction for value in element.box))
        for element in elements
    ]
    order = rng.permutation(len(elements))
    return Screen(canvas.reduce(reduction), name, family, [shown[index] for index in order])


def generate(folder: Path, options: dict[str, Any]) -> None:
    """Write a raw dataset of drawn screens into `folder`.

    Args:
        folder: the dataset's empty folder.
        options: `layout` ("showui": unit xyxy boxes, or "screenspot": pixel xywh boxes), `screens`
            (how many), `seed` (of the layouts), `themes` and, if not 1, `least` (elements a
            screen). Screens with few elements are sometimes near copies of one another.

    Raises:
        ConfigError: an option is unknown, missing or not allowed.
    """
    options = checked(options)
    seed = options["seed"]
    drawn = (
        (
            f"screen_{seed}_{index:05d}.png",
            draw_screen(seed, index, options["themes"], options["least"]),
        )
        for index in range(options["screens"])
    )
    (showui if options["layout"] == "showui" else screenspot)(folder, drawn)


def checked(options: dict[str, Any]) -> dict[str, Any]:
    """The options with defaults; see `generate`."""
    options = {"least": 1, **options}
    allowed = {"layout", "screens", "seed", "themes", "least"}
    if options.keys() != allowed:
        wrong = ", ".join(sorted(options.keys() ^ allowed))
        needed = ", ".join(sorted(allowed))
        raise ConfigError(f"screens: unknown or missing option {wrong}; options: {needed}")
    if options["layout"] not in ("showui", "screenspot"):
        raise ConfigError(f"screens: layout = {options['layout']!r}; allowed: showui, screenspot")
    for name, low, high in (("screens", 1, None), ("seed", 0, None), ("least", 1, max(COUNTS))):
        value = options[name]
        if not isinstance(value, int) or value < low or (high and value > high):
            allowed = f"from {low} on" if high is None else f"from {low} to {high}"
            raise ConfigError(f"screens: {name} = {value!r}: a number {allowed}")
    if not options["themes"] or (unknown := set(options["themes"]) - set(THEMES)):
        wrong = options["themes"] and sorted(unknown)
        raise ConfigError(f"screens: themes = {wrong!r}; allowed: {', '.join(THEMES)}")
    return options


def showui(folder: Path, screens: Iterable[tuple[str, Screen]]) -> None:
    """Write `images/` and `metadata/hf_train.json` as ShowUI-desktop has them."""
    (folder / "images").mkdir(parents=True)
    (folder / "metadata").mkdir()
    records = []
    for name, screen in screens:
        screen.image.save(folder / "images" / name)
        side = screen.image.width
        elements = [
            {
                "instruction": element.instruction,
                "bbox": [value / side for value in element.box],
                "data_type": element.data_type,
                "point": [
                    (element.box[axis] + element.box[axis + 2]) / 2 / side for axis in (0, 1)
                ],
            }
            for element in screen.elements
        ]
        records.append(
            {
                "img_url": name,
                "img_size": list(screen.image.size),
                "element": elements,
                "element_size": len(elements),
            }
        )
    (folder / "metadata" / "hf_train.json").write_text(json.dumps(records, indent=1))


def screenspot(folder: Path, screens: Iterable[tuple[str, Screen]]) -> None:
    """Write images and a `screenspot_<family>_v2.json` a family as ScreenSpot v2 has them."""
    images = folder / "screenspotv2_image"
    images.mkdir(parents=True)
    rows: dict[str, list[dict[str, Any]]] = {"desktop": [], "web": []}
    for name, screen in screens:
        screen.image.save(images / name)
        for element in screen.elements:
            left, top, right, bottom = element.box
            rows[screen.family].append(
                {
                    "img_filename": name,
                    "bbox": [left, top, right - left, bottom - top],
                    "instruction": element.instruction,
                    "data_type": element.data_type,
                    "data_source": screen.theme,
                }
            )
    for family, found in rows.items():
        path = folder / f"screenspot_{family}_v2.json"
        path.write_text(json.dumps(found, indent=1))
