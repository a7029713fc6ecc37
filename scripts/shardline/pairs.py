"""Finding pairs of files by their names: a page and its picture."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import NamedTuple

from shardline.rows import Rejection

NAMED = 5  # files that a message lists

Folder = tuple[str, ...]
Name = tuple[Folder, str]  # folder below the root, and file name without its ending


class Pair(NamedTuple):
    """A page and its picture, or why it is none; ``file`` is what the row is called by."""

    file: str
    image: str
    rejection: Rejection | None


def find_pairs(
    files: Iterable[str],
    page_endings: tuple[str, ...],
    image_endings: tuple[str, ...],
    page_root: str = "",
    image_root: str = "",
) -> Iterator[Pair]:
    """Yield every page with its picture, then every picture that no page has.

    Page and picture have one name and lie in one folder (counted from their roots). If a page's
    folder has no pictures and a picture's folder no pages, these folders may also be equal but for
    one part, of another name or left out: ``html/7.html`` and ``images/7.jpg``. A page
    with several pictures is rejected, and so are several pages with one picture.

    Args:
        files: paths of all files.
        page_endings: in lower case; so are `image_endings`.
        image_endings: of pictures.
        page_root: folder that the pages lie in, "" for any.
        image_root: folder that the pictures lie in, "" for any.
    """
    files = list(files)
    pages = _by_name(files, page_endings, page_root)
    images = _by_name(files, image_endings, image_root)
    partners = _parallel_folders({folder for folder, _ in pages}, {folder for folder, _ in images})
    matches = {name: _matches(name, images, partners) for name in pages}
    owners: dict[Name, list[Name]] = defaultdict(list)
    for name, found in matches.items():
        for match in found:
            owners[match].append(name)
    pairs = []
    for name, found in matches.items():
        pictures = [image for match in found for image in images[match]]
        rivals = {page for match in found for owner in owners[match] for page in pages[owner]}
        pairs += [_pair(page, sorted(rivals - {page}), pictures) for page in pages[name]]
    yield from sorted(pairs, key=lambda pair: pair.file)
    left = [image for name, own in images.items() if name not in owners for image in own]
    for image in sorted(left):
        yield Pair(image, image, Rejection("missing_html", "no page has the name of this picture"))


def _pair(page: str, rivals: list[str], images: list[str]) -> Pair:
    rejection = None
    if not images:
        rejection = Rejection("missing_image", "no picture has the name of this page")
    elif rivals:
        rejection = Rejection("several_pages", f"{_list(images)} is also that of {_list(rivals)}")
    elif len(images) > 1:
        rejection = Rejection("several_images", _list(images))
    return Pair(page, images[0] if images else "", rejection)


def _list(files: list[str]) -> str:
    more = f" and {len(files) - NAMED} more" if len(files) > NAMED else ""
    return ", ".join(files[:NAMED]) + more


def _by_name(files: list[str], endings: tuple[str, ...], root: str) -> dict[Name, list[str]]:
    """The files with one of the endings below a root, by folder and name."""
    prefix = PurePosixPath(root).parts
    found: dict[Name, list[str]] = defaultdict(list)
    for file in files:
        path = PurePosixPath(file)
        folder = path.parts[:-1]
        if path.suffix.lower() in endings and folder[: len(prefix)] == prefix:
            found[folder[len(prefix) :], path.stem].append(file)
    return dict(found)


def _matches(
    name: Name, images: dict[Name, list[str]], partners: dict[Folder, list[Folder]]
) -> list[Name]:
    folder, stem = name
    places = [folder, *partners.get(folder, [])]
    return [(place, stem) for place in places if (place, stem) in images]


def _parallel_folders(pages: set[Folder], images: set[Folder]) -> dict[Folder, list[Folder]]:
    """For folders of pages only, the folders of pictures only that differ in one part."""
    by_rest: dict[tuple[int, Folder], list[Folder]] = defaultdict(list)
    for folder in sorted(images - pages):
        for rest in _rests(folder):
            by_rest[rest].append(folder)
    return {
        folder: sorted({other for rest in _rests(folder) for other in by_rest.get(rest, ())})
        for folder in pages - images
    }


def _rests(folder: Folder) -> Iterator[tuple[int, Folder]]:
    """What a folder shares with those that differ from it in one part: at each place, the rest.

    The part is replaced or left out in one of the two, so the whole counts as a rest as well.
    """
    for place in range(len(folder)):
        yield place, folder[:place] + folder[place + 1 :]
    for place in range(len(folder) + 1):
        yield place, folder
