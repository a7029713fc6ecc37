"""The overlap gate: copies of benchmark images are found, other screens are not taken for them."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import pytest
import yaml
from PIL import Image, ImageEnhance
from PIL.PngImagePlugin import PngInfo

from filtered import run_filters
from raw_datasets import lock_and_convert, picture, save, screen, write_showui
from shardline.errors import GateError
from shardline.files import read_jsonl
from shardline.filters import overlap
from shardline.generators.screens import CELL, SIZE, THEMES, Screen, draw_screen

MAX_DISTANCE = overlap.DEFAULTS["max_distance"]
ENOUGH = 3  # screens with fewer elements are sometimes near copies of one another by chance
STANDS_OUT = 80  # of 256: an element this unlike what is around it is seen at a glance
REAL = (
    "showui_metadata/examples/chrome.png",
    "showui_metadata/examples/word.png",
    "agentnetbench_trajectories/images/s_df0fd37049f470c2_9.png",
    "qwen_gui_screens/multimodal_coding/screenshot_demo.png",
    "websrc_html/camera/01/processed_data/0100003.png",
    "uied_rico_elements/input/10.jpg",
)


def opened(file: Path) -> Image.Image:
    """An image file's picture."""
    with Image.open(file) as image:
        return image.convert("RGB")


def same_bytes(original: Path, stem: Path) -> None:
    """The file under another name."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(original, stem.with_suffix(original.suffix))


def jpeg(original: Path, stem: Path) -> None:
    """Encoded anew, visibly worse."""
    save(opened(original), stem.with_suffix(".jpg"), quality=60)


def half_size(original: Path, stem: Path) -> None:
    """Half as wide and high."""
    image = opened(original)
    save(image.resize((image.width // 2, image.height // 2)), stem.with_suffix(".png"))


def third_size(original: Path, stem: Path) -> None:
    """A third as wide and high, which is no whole number of pixels."""
    image = opened(original)
    save(image.resize((image.width // 3, image.height // 3)), stem.with_suffix(".png"))


def brighter(original: Path, stem: Path) -> None:
    """A tenth brighter, what is white already clipped."""
    save(ImageEnhance.Brightness(opened(original)).enhance(1.1), stem.with_suffix(".png"))


def saved_anew(original: Path, stem: Path) -> None:
    """The same pixels in other bytes."""
    info = PngInfo()
    info.add_text("Software", "another editor")
    save(opened(original), stem.with_suffix(".png"), pnginfo=info)
    assert stem.with_suffix(".png").read_bytes() != original.read_bytes()


CHANGES: dict[str, Callable[[Path, Path], None]] = {
    change.__name__: change
    for change in (same_bytes, jpeg, half_size, third_size, brighter, saved_anew)
}


def dataset(place: Path, name: str, files: Iterable[str] = ()) -> None:
    """Convert the images in ``place/<name>/images``: one sample each, or one each of ``files``."""
    folder = place / name
    files = list(files) or sorted(path.name for path in (folder / "images").iterdir())
    records = [screen(file, ["Save"]) for file in files]
    for record in records:
        del record["img_size"]
    write_showui(folder, records)
    lock_and_convert(place / "results", name, folder, "showui", "unit_xyxy", max_reject_share=0)


def decide(place: Path, benchmarks: tuple[str, ...] = ("bench",), **options: Any) -> dict[str, Any]:
    """The summary of the gate's decisions about dataset ``train``."""
    return run_filters(place / "results", "train", [("overlap", options)], benchmarks=benchmarks)


def lines(place: Path) -> list[dict[str, Any]]:
    """All that was decided about the samples of dataset ``train``."""
    files = sorted((place / "results/filtered/train/v").glob("decisions-*.jsonl"))
    return [line for file in files for line in read_jsonl(file)]


def details(place: Path) -> dict[str, dict[str, Any]]:
    """What was written down about each rejected image, by its name without suffix."""
    rejected = [line["detail"] for line in lines(place) if not line["kept"]]
    return {Path(detail["path"]).stem: detail for detail in rejected}


def matches(place: Path, originals: list[Path], change: str, **options: Any) -> dict[str, str]:
    """Training image -> benchmark image, if every training image is a changed benchmark image."""
    for original in originals:
        same_bytes(original, place / "bench/images" / original.stem)
        CHANGES[change](original, place / "train/images" / original.stem)
    dataset(place, "bench")
    dataset(place, "train")
    decide(place, limit=len(originals), **options)
    return {name: Path(detail["benchmark_path"]).stem for name, detail in details(place).items()}


def drawings(
    seed: int, count: int, themes: Iterable[str] = THEMES, least: int = 1
) -> dict[int, Screen]:
    """The first ``count`` drawn screens with at least ``least`` elements, by their number."""
    numbered = ((index, draw_screen(seed, index, list(themes))) for index in itertools.count())
    enough = ((index, drawing) for index, drawing in numbered if len(drawing.elements) >= least)
    return dict(itertools.islice(enough, count))


def drawn(folder: Path, seed: int, count: int, **options: Any) -> list[Path]:
    """Files of `drawings`."""
    files = []
    for index, drawing in drawings(seed, count, **options).items():
        files.append(folder / f"{seed}_{index}.png")
        save(drawing.image, files[-1])
    return files


def bits(first: Path, second: Path) -> int:
    """In how many bits the hashes of two images differ, by ImageHash alone."""
    return imagehash.phash(opened(first)) - imagehash.phash(opened(second))


def rearranged(drawing: Screen) -> Iterator[tuple[Image.Image, Image.Image]]:
    """For each element that stands out: the screen without it, and with it one cell further."""
    side = drawing.image.width
    step = CELL * side // SIZE
    for element in drawing.elements:
        others = [other.box for other in drawing.elements if other is not element]
        box = element.box
        for x, y in ((step, 0), (-step, 0), (0, step), (0, -step)):
            free = (box[0] + x, box[1] + y, box[2] + x, box[3] + y)
            if min(free) < 0 or max(free) > side or any(_meet(free, other) for other in others):
                continue
            here, there = drawing.image.crop(box), drawing.image.crop(free)
            if np.abs(np.mean(here, (0, 1)) - np.mean(there, (0, 1))).max() < STANDS_OUT:
                continue
            without = drawing.image.copy()
            without.paste(there, box)
            moved = without.copy()
            moved.paste(here, free)
            yield without, moved
            break


def _meet(first: tuple[int, ...], second: tuple[int, ...]) -> bool:
    return all(first[a] < second[a + 2] and second[a] < first[a + 2] for a in (0, 1))


@pytest.mark.parametrize("change", CHANGES)
def test_copies_of_drawn_screens_are_found(tmp_path: Path, change: str) -> None:
    """Screens of all themes and resolutions, each found by its own original."""
    originals = drawn(tmp_path / "drawn", seed=5, count=12)
    found = matches(tmp_path, originals, change)
    assert found == {original.stem: original.stem for original in originals}


@pytest.mark.parametrize("change", CHANGES)
def test_copies_of_real_screenshots_are_found(
    tmp_path: Path, shared_data: Path, change: str
) -> None:
    """Screenshots of six applications, each found by its own original."""
    originals = [shared_data / name for name in REAL]
    found = matches(tmp_path, originals, change)
    assert found == {original.stem: original.stem for original in originals}


@pytest.mark.parametrize("max_distance", [MAX_DISTANCE, 63])
def test_the_same_layout_with_an_element_elsewhere_is_no_copy(
    tmp_path: Path, max_distance: int
) -> None:
    """The colours of the parts tell them apart, also where the hashes do not."""
    near = 0
    for index, drawing in drawings(seed=6, count=20, least=ENOUGH).items():
        original = tmp_path / f"bench/images/{index}.png"
        save(drawing.image, original)
        for number, (without, moved) in enumerate(rearranged(drawing)):
            for name, image in (("without", without), ("moved", moved)):
                file = tmp_path / f"train/images/{index}_{number}_{name}.png"
                save(image, file)
                near += bits(original, file) <= MAX_DISTANCE
    assert near >= 5, "the hashes alone tell nearly all apart: this tests nothing"
    dataset(tmp_path, "bench")
    dataset(tmp_path, "train")
    figures = decide(tmp_path, max_distance=max_distance)["filters"][0]["figures"]
    assert figures["benchmark_images"] == 20 and figures["training_images"] >= 40
    assert figures["matching_images"] == 0


@pytest.mark.parametrize("max_distance", [MAX_DISTANCE, 63])
def test_different_screens_of_one_theme_are_no_copies(tmp_path: Path, max_distance: int) -> None:
    """Of 12 x 12 pairs none matches, even if the hashes let all of them pass."""
    drawn(tmp_path / "bench/images", seed=7, count=12, themes=["aurora"], least=ENOUGH)
    drawn(tmp_path / "train/images", seed=8, count=12, themes=["aurora"], least=ENOUGH)
    dataset(tmp_path, "bench")
    dataset(tmp_path, "train")
    summary = decide(tmp_path, max_distance=max_distance)
    assert summary["samples"] == {"in": 12, "kept": 12, "rejected": 0}
    assert summary["filters"][0]["figures"] == {
        "benchmarks": ["bench"],
        "benchmark_images": 12,
        "training_images": 12,
        "matching_images": 0,
    }


def test_details_tell_how_near_a_copy_is(tmp_path: Path) -> None:
    """`exact` means equal bytes; `distance` is ImageHash's, 0 for equal bytes."""
    originals = drawn(tmp_path / "bench/images", seed=9, count=4)
    expected = {}
    for original in originals:
        for name, change in CHANGES.items():
            stem = tmp_path / f"train/images/{original.stem}_{name}"
            change(original, stem)
            (file,) = stem.parent.glob(f"{stem.name}.*")
            expected[stem.name] = (
                f"images/{file.name}",
                f"images/{original.name}",
                name == "same_bytes",
                bits(original, file),
            )
    assert {distance for *_, distance in expected.values()} > {0}
    dataset(tmp_path, "bench")
    dataset(tmp_path, "train")
    decide(tmp_path, limit=len(expected))
    fields = ("path", "benchmark_path", "exact", "distance")
    found = details(tmp_path)
    assert {name: tuple(found[name][field] for field in fields) for name in found} == expected


def test_the_nearest_of_several_benchmark_images_is_named(tmp_path: Path) -> None:
    """Not the first one that is near enough."""
    for original in drawn(tmp_path / "drawn", seed=10, count=20):
        brighter(original, tmp_path / "bench/images/first")
        if 0 < bits(original, tmp_path / "bench/images/first.png") <= MAX_DISTANCE:
            break
    else:
        pytest.fail("brightening changes no hash")
    saved_anew(original, tmp_path / "bench/images/second")
    same_bytes(original, tmp_path / "train/images/screen")
    dataset(tmp_path, "bench")
    dataset(tmp_path, "train")
    decide(tmp_path, limit=1)
    assert details(tmp_path)["screen"] == {
        "path": "images/screen.png",
        "benchmark": "bench",
        "of": "bench:metadata/train.json#1",
        "benchmark_path": "images/second.png",
        "distance": 0,
        "exact": False,
    }


def test_flat_images_match_by_their_bytes_alone(tmp_path: Path) -> None:
    """They have no hash; a black and a white screen are two screens."""
    save(Image.new("RGB", (60, 40), "black"), tmp_path / "bench/images/black.png")
    save(Image.new("RGB", (60, 40), "white"), tmp_path / "train/images/white.png")
    same_bytes(tmp_path / "bench/images/black.png", tmp_path / "train/images/taken")
    dataset(tmp_path, "bench")
    dataset(tmp_path, "train")
    decide(tmp_path, limit=1)
    assert {name: detail["exact"] for name, detail in details(tmp_path).items()} == {"taken": True}


@pytest.fixture
def one_copy(tmp_path: Path) -> Path:
    """Training pictures 0 to 3, of which 3 is the benchmark's 12 as JPEG; two samples show 3."""
    for number in range(10, 14):
        save(picture(number), tmp_path / f"bench/images/{number}.png")
    for number in range(3):
        save(picture(number), tmp_path / f"train/images/{number}.png")
    jpeg(tmp_path / "bench/images/12.png", tmp_path / "train/images/3")
    save(picture(30), tmp_path / "other/images/30.png")
    dataset(tmp_path, "other")
    dataset(tmp_path, "bench")
    dataset(tmp_path, "train", ["0.png", "3.jpg", "1.png", "3.jpg", "2.png"])
    return tmp_path


def test_over_the_limit_the_gate_fails_and_says_what_to_do(one_copy: Path) -> None:
    """The message names both files, the benchmark and an option that helps if it is set."""
    with pytest.raises(GateError) as caught:
        decide(one_copy, benchmarks=("other", "bench"))
    message = str(caught.value)
    distance = bits(one_copy / "train/images/3.jpg", one_copy / "bench/images/12.png")
    assert message.startswith("train: overlap: near copies of benchmark images in training ")
    assert "dataset train: 1, over the limit of 0" in message
    assert f"images/3.jpg = bench images/12.png ({distance} of 64 bits differ)" in message
    assert not lines(one_copy)
    assert not (one_copy / "results/filtered/train/v/decisions.json").exists()

    advice = yaml.safe_load("overlap" + message.rpartition("overlap")[2])
    assert advice == {"overlap": {"limit": 1}}
    summary = decide(one_copy, benchmarks=("other", "bench"), **advice["overlap"])
    assert summary["samples"]["rejected"] == 2


def test_within_the_limit_the_samples_of_the_image_are_rejected(one_copy: Path) -> None:
    """The limit counts images, not samples; the numbers add up."""
    summary = decide(one_copy, benchmarks=("other", "bench"), limit=1)
    found = {line["id"]: line for line in lines(one_copy)}
    assert len(found) == 5
    rejected = {name: line for name, line in found.items() if not line["kept"]}
    assert set(rejected) == {"train:metadata/train.json#1", "train:metadata/train.json#3"}
    for line in rejected.values():
        assert (line["filter"], line["reason"]) == ("overlap", "overlap")
        assert line["detail"]["benchmark"] == "bench"
        assert line["detail"]["of"] == "bench:metadata/train.json#2"
        assert line["detail"]["benchmark_path"] == "images/12.png"
    assert summary["samples"] == {"in": 5, "kept": 3, "rejected": 2}
    assert sum(shard["in"] for shard in summary["shards"]) == 5
    assert sum(shard["kept"] for shard in summary["shards"]) == 3
    assert summary["filters"][0]["rejected"] == 2
    assert summary["filters"][0]["figures"] == {
        "benchmarks": ["other", "bench"],
        "benchmark_images": 5,
        "training_images": 4,
        "matching_images": 1,
    }


def test_a_long_list_of_copies_is_cut(tmp_path: Path) -> None:
    """Five pairs show what is wrong; the count is that of all."""
    for number in range(7):
        save(picture(number), tmp_path / f"bench/images/{number}.png")
    shutil.copytree(tmp_path / "bench", tmp_path / "train")
    dataset(tmp_path, "bench")
    dataset(tmp_path, "train")
    with pytest.raises(GateError) as caught:
        decide(tmp_path, limit=6)
    message = str(caught.value)
    assert "training dataset train: 7, over" in message and "limit of 6" in message
    assert message.count("(the same file)") == 5 and "{limit: 7}" in message
