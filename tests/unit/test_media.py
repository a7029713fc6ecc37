"""The media audit on good, tricky and broken image files."""

from __future__ import annotations

import io
import os
import signal

import pytest
from PIL import Image

from raw_datasets import picture, save
from shardline import locks
from shardline.errors import DataError
from shardline.files import sha256_file
from shardline.images import BadImage, decode, decode_rgb
from shardline.media import Auditor, audit_image
from shardline.parallel import Workers
from shardline.rows import Rejection

LIMIT = 50_000_000


def auditor(folder, threads=1):
    locked = {
        path: locks.LockedFile((folder / path).stat().st_size, sha256_file(folder / path))
        for path in locks.list_files(folder)
    }
    return Auditor(folder, locked, LIMIT, Workers(threads))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("truncated_image.png", "corrupt_image"),
        ("truncated_jpeg.jpg", "corrupt_image"),
        ("broken.png", "corrupt_image"),
        ("broken_data_stream.png", "corrupt_image"),
        ("png_decompression_dos.png", "decompression_bomb"),
        ("zero_width.gif", "corrupt_image"),
        ("seek_too_large.tif", "corrupt_image"),
        ("decompression_bomb.gif", "too_many_pixels"),
    ],
)
def test_broken_files_are_told(shared_data, name, reason):
    audit = audit_image(str(shared_data / "tricky_pillow" / name), LIMIT)
    assert audit.reason == reason and audit.detail and "0x" not in audit.detail


@pytest.mark.parametrize(
    "name",
    [
        "pil_sample_cmyk.jpg",
        "hopper_idat_after_image_end.png",
        "invalid-exif.jpg",
        "broken_exif_dpi.jpg",
        "junk_jpeg_header.jpg",
        "transparent.gif",
        "tiff_16bit_RGB.tiff",
        "uncompressed_la.png",
    ],
)
def test_odd_but_whole_files_are_taken(shared_data, name):
    path = shared_data / "tricky_pillow" / name
    audit = audit_image(str(path), LIMIT)
    assert not audit.reason and audit.sha256 == sha256_file(path)
    assert decode_rgb(path.read_bytes()).size == (audit.width, audit.height)


def test_every_tricky_file_gets_an_answer(shared_data):
    for folder in ("tricky_pillow", "tricky_formats", "heic", "malformed_json"):
        for path in sorted((shared_data / folder).rglob("*")):
            audit = audit_image(str(path), LIMIT)
            assert bool(audit.reason) != bool(audit.width and audit.height), path


@pytest.mark.parametrize("orientation", [1, 3, 5, 6, 8])
def test_size_is_after_exif_orientation(shared_data, orientation):
    path = shared_data / "exif_orientation" / f"Landscape_{orientation}.jpg"
    with Image.open(path) as image:
        stored = image.size
    audit = audit_image(str(path), LIMIT)
    assert (audit.width, audit.height) == (stored if orientation < 5 else stored[::-1])
    assert audit.orientation == orientation
    assert decode_rgb(path.read_bytes()).size == (audit.width, audit.height)


def test_missing_empty_and_folder(tmp_path):
    (tmp_path / "empty.png").touch()
    assert audit_image(str(tmp_path / "absent.png"), LIMIT).reason == "missing_image"
    assert audit_image(str(tmp_path / "empty.png"), LIMIT).reason == "empty_file"
    assert audit_image(str(tmp_path), LIMIT).reason == "unreadable_image"


def test_a_png_cut_anywhere_is_found(tmp_path):
    save(picture(1), tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    for length in range(0, len(data) - 12, 23):  # 12: the end marker
        with pytest.raises(BadImage):
            decode(data[:length])


def test_pixel_limit_is_exact(tmp_path):
    save(picture(1, (20, 10)), tmp_path / "a.png")
    assert not audit_image(str(tmp_path / "a.png"), 200).reason
    assert audit_image(str(tmp_path / "a.png"), 199).reason == "too_many_pixels"


def test_transparency_is_shown_on_white():
    buffer = io.BytesIO()
    Image.new("RGBA", (2, 2), (255, 0, 0, 0)).save(buffer, "PNG")
    assert decode_rgb(buffer.getvalue()).getpixel((0, 0)) == (255, 255, 255)
    buffer = io.BytesIO()
    Image.new("I;16", (2, 2), 0x8000).save(buffer, "PNG")
    assert decode_rgb(buffer.getvalue()).getpixel((0, 0)) == (128, 128, 128)


def test_declared_size(tmp_path):
    save(picture(1, (200, 100)), tmp_path / "a.png")
    audits = auditor(tmp_path)
    audits.audit(["a.png"])
    assert audits.check("a.png", 0, 0, in_pixels=True)[1] == ""
    assert audits.check("a.png", 200, 100, in_pixels=True)[1] == ""
    assert audits.check("a.png", 100, 50, in_pixels=False)[1] == "100x50"
    for width, height, in_pixels in ((100, 50, True), (100, 60, False), (100, 200, False)):
        with pytest.raises(Rejection, match="size_mismatch"):
            audits.check("a.png", width, height, in_pixels=in_pixels)


def test_each_file_once_in_the_same_order_on_any_number_of_workers(tmp_path):
    for seed in range(40):
        save(picture(seed), tmp_path / f"{seed:02d}.png")
    (tmp_path / "07.png").write_bytes(b"no image")
    paths = [f"{seed:02d}.png" for seed in range(40)]
    found = []
    for threads in (1, 2):
        with Workers(threads) as workers:
            audits = auditor(tmp_path)
            audits.workers = workers
            audits.audit(paths * 2)
            found.append(list(audits.audits.items()))
    assert found[0] == found[1]
    assert [path for path, _ in found[0]] == paths


def test_a_file_changed_since_locking_stops_the_audit(tmp_path):
    save(picture(1), tmp_path / "a.png")
    audits = auditor(tmp_path)
    save(picture(2), tmp_path / "a.png")
    with pytest.raises(DataError, match="not what was locked"):
        audits.audit(["a.png"])
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match="gone"):
        audits.audit(["a.png"])


def die(item):
    if item == 30:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def test_a_killed_worker_is_told():
    with Workers(2) as workers, pytest.raises(DataError, match="a worker process was killed"):
        list(workers.map(die, range(64)))
