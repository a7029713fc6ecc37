"""The media audit on whole and on damaged image files; see also test_tricky_media."""

from __future__ import annotations

import io
import os
import signal
import struct
import zlib

import av
import numpy as np
import pillow_heif
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from raw_datasets import picture, save, video
from shardline import locks
from shardline.errors import DataError
from shardline.files import sha256_file
from shardline.image_files import BadImage
from shardline.images import decode, decode_rgb, probe, upright
from shardline.media import Auditor, audit_image, audit_video
from shardline.parallel import Workers
from shardline.rows import Rejection

LIMIT = 50_000_000


def auditor(folder, threads=1):
    locked = {
        path: locks.LockedFile((folder / path).stat().st_size, sha256_file(folder / path))
        for path in locks.list_files(folder)
    }
    return Auditor(folder, locked, LIMIT, Workers(threads))


def encoded(kind, pictures=1, **options):
    """A file of one or more pictures, and what it is called in test names."""
    first, *others = (picture(seed, (96, 72)) for seed in range(pictures))
    if kind == "HEIF":
        pillow_heif.register_heif_opener()
    if mode := options.pop("mode", None):
        first = first.convert(mode)
    if others:
        options |= {"save_all": True, "append_images": others}
    buffer = io.BytesIO()
    first.save(buffer, kind, **options)
    return buffer.getvalue()


JPEGS = {
    "baseline": encoded("JPEG"),
    "progressive": encoded("JPEG", progressive=True),
    "444": encoded("JPEG", subsampling=0),
    "grey": encoded("JPEG", mode="L"),
    "cmyk": encoded("JPEG", mode="CMYK"),
    "restarts": encoded("JPEG", restart_marker_blocks=4),
}
FILES = {
    **JPEGS,
    "png": encoded("PNG"),
    "palette": encoded("PNG", mode="P"),
    "apng": encoded("PNG", 3),
    "webp": encoded("WEBP"),
    "webp_lossless": encoded("WEBP", lossless=True),
    "webp_moving": encoded("WEBP", 3),
    "gif": encoded("GIF"),
    "gif_moving": encoded("GIF", 3),
    "bmp": encoded("BMP"),
    "tiff": encoded("TIFF"),
    "tiff_lzw": encoded("TIFF", compression="tiff_lzw"),
    "tiff_jpeg": encoded("TIFF", compression="jpeg"),
    "jpeg2000": encoded("JPEG2000"),
    "avif": encoded("AVIF"),
    "avif_moving": encoded("AVIF", 3),
    "heif": encoded("HEIF"),
}
MARKS = {"png": 4, "palette": 4, "apng": 4, "gif": 2, "gif_moving": 2}  # bytes after all pictures


def problem(function, data):
    try:
        function(data, LIMIT)
    except BadImage as bad:
        return bad.reason
    return ""


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_anywhere_is_found(name):
    data = FILES[name]
    assert problem(probe, data) == problem(decode, data) == ""
    end = len(data) - MARKS.get(name, 0)
    for length in {0, *range(1, end, len(data) // 40), *range(end - 12, end)}:
        assert problem(probe, data[:length]) in ("corrupt_image", "empty_file"), length


@settings(max_examples=400)
@given(st.data())
def test_the_quick_look_at_a_jpeg_finds_what_decoding_all_of_it_finds(data):
    damaged = bytearray(JPEGS[data.draw(st.sampled_from(sorted(JPEGS)))])
    places = st.integers(0, len(damaged) - 1)
    values = st.sampled_from([0x00, 0xD0, 0xD9, 0xDA, 0xFF]) | st.integers(0, 255)
    for place, value in data.draw(st.dictionaries(places, values, max_size=6)).items():
        damaged[place] = value
    damaged = bytes(damaged[: data.draw(st.just(len(damaged)) | places)])
    assert problem(probe, damaged) == problem(decode, damaged)


@settings(max_examples=200)
@given(st.sampled_from(sorted(FILES)), st.randoms(use_true_random=False))
def test_what_the_audit_lets_pass_can_be_shown(name, random):
    damaged = bytearray(FILES[name])
    for _ in range(random.choice((1, 2, 5))):
        damaged[random.randrange(min(len(damaged), random.choice((300, 10**9))))] = (
            random.randrange(256)
        )
    if not problem(probe, bytes(damaged)):
        width, height, *_ = probe(bytes(damaged))
        assert decode_rgb(bytes(damaged), LIMIT).size == (width, height)


def png_header(width, height):
    """A PNG that ends after its header, with the first bytes of its picture's data."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    checksum = zlib.crc32(chunk).to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + checksum + b"\0\0\1\0IDAT"


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ((65_536, 10), "too_many_pixels"),
        ((10, 65_536), "too_many_pixels"),
        ((10_000, 10_000), "too_many_pixels"),
        ((2**31 - 1, 2**31 - 1), "too_many_pixels"),
        ((100, 100), "corrupt_image"),
    ],
)
def test_large_pictures_are_refused_by_their_header(size, reason):
    assert problem(probe, png_header(*size)) == problem(decode, png_header(*size)) == reason


def test_a_jpeg_of_many_scans_is_refused():
    data = FILES["progressive"]
    start = data.index(b"\xff\xda")
    assert problem(probe, data[:start] + data[start:-2] * 50) == "unsupported_image"


@given(
    st.integers(1, 8),
    st.tuples(st.integers(0, 8), st.integers(0, 5)),
    st.tuples(st.integers(1, 3), st.integers(1, 2)),
)
def test_boxes_turn_with_their_picture(orientation, corner, size):
    left, top = corner
    right, bottom = min(9, left + size[0]), min(6, top + size[1])
    stored = Image.new("L", (9, 6))
    stored.paste(255, (left, top, right, bottom))
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    stored.save(buffer, "PNG", exif=exif)
    seen = decode_rgb(buffer.getvalue())
    assert seen.size == probe(buffer.getvalue())[:2]
    x1, y1, x2, y2 = upright((left, top, right, bottom), orientation, 9, 6)
    assert seen.getbbox() == (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))


def test_bytes_that_are_no_image(shared_data):
    for path in sorted((shared_data / "malformed_json").rglob("*.json")):
        audit = audit_image(str(path), LIMIT)
        assert audit.reason == ("corrupt_image" if path.stat().st_size else "empty_file"), path


def test_missing_empty_and_folder(tmp_path):
    (tmp_path / "empty.png").touch()
    assert audit_image(str(tmp_path / "absent.png"), LIMIT).reason == "missing_image"
    assert audit_image(str(tmp_path / "empty.png"), LIMIT).reason == "empty_file"
    assert audit_image(str(tmp_path), LIMIT).reason == "unreadable_image"


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


VIDEOS = {
    kind: video(kind, codec)
    for kind, codec in {
        "mp4": "mpeg4",
        "mov": "libx264",
        "avi": "mpeg4",
        "matroska": "libx264",
        "webm": "libvpx",
    }.items()
}


def audit_bytes(data, folder, limit=LIMIT):
    (folder / "video").write_bytes(data)
    return audit_video(str(folder / "video"), limit)


@pytest.mark.parametrize("kind", VIDEOS)
def test_a_video_cut_anywhere_is_found(kind, tmp_path):
    data = VIDEOS[kind]
    audit = audit_bytes(data, tmp_path)
    assert (audit.reason, audit.width, audit.height) == ("", 96, 72)
    assert audit.facts == {"frames": 12, "fps": 6.0, "duration": 2.0}
    for length in (1, 9, 40, *range(100, len(data), len(data) // 20), len(data) - 1):
        cut = audit_bytes(data[:length], tmp_path)
        assert cut.reason == "corrupt_video" and str(tmp_path) not in cut.detail, length


def test_damage_inside_a_video_is_found(shared_data, tmp_path):
    data = (shared_data / "tricky_videos/video_0.mov").read_bytes()
    for start in range(4000, 12_000, 1000):
        damaged = data[:start] + bytes(500) + data[start + 500 :]
        assert audit_bytes(damaged, tmp_path).reason == "corrupt_video", start


def test_files_without_a_usable_video(tmp_path):
    sound = io.BytesIO()
    with av.open(sound, "w", format="mov") as container:
        stream = container.add_stream("pcm_s16le", rate=48_000, layout="mono")
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.int16), "s16", "mono")
        samples.rate = 48_000
        container.mux([*stream.encode(samples), *stream.encode()])
    for data, limit, reason in [
        (sound.getvalue(), LIMIT, "no_video_stream"),
        (VIDEOS["mp4"], 96 * 72 - 1, "too_many_pixels"),
        (VIDEOS["mp4"], 96 * 72, ""),
        (b"", LIMIT, "empty_file"),
        (b"<html>404</html>" * 99, LIMIT, "corrupt_video"),
        (b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n", LIMIT, "corrupt_video"),
        (FILES["apng"], LIMIT, "unsupported_video"),
        (FILES["webp_moving"], LIMIT, "unsupported_video"),
    ]:
        assert audit_bytes(data, tmp_path, limit).reason == reason, data[:16]
    assert audit_video(str(tmp_path / "absent.mp4"), LIMIT).reason == "missing_video"
    assert audit_video(str(tmp_path), LIMIT).reason == "unreadable_video"
