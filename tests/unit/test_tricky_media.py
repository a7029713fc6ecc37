"""Every file of the real tricky folders is kept with its true size, or rejected for what it is.

The tables were written by looking at the files: at what is on the pictures, and at the bytes of
those that show none.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

from raw_datasets import lock_and_convert, rejects_of, samples_of
from shardline.images import decode_rgb

FOLDERS = (
    *("tricky_pillow", "exif_orientation", "heic", "tricky_formats", "tricky_videos"),
    *("captioned_videos", "turntable_gifs", "quality_filtering"),
)
VIDEO_ENDINGS = (".mp4", ".mov")
EXIF = "../exif_orientation/Landscape"

# What is kept: its size upright, the EXIF orientation that it was turned by, how many frames it
# has. What is not: the reason, and how the detail begins.
IMAGES = r"""
tricky_pillow/16bit.cropped.tif | 64x64
tricky_pillow/1_trns.png | 64x64
tricky_pillow/broken.png | corrupt_image: the header of a png file is broken
tricky_pillow/broken_data_stream.png | corrupt_image: broken PNG file (bad header checksum
tricky_pillow/broken_exif_dpi.jpg | 100x100
tricky_pillow/decompression_bomb.gif | too_many_pixels: 4364696535 pixels
tricky_pillow/decompression_bomb_extents.gif | too_many_pixels: 4307953225 pixels
tricky_pillow/dispose_bgnd.gif | 100x100 frames 5
tricky_pillow/exif_gps.jpg | 8x8
tricky_pillow/hopper.bmp | 128x128
tricky_pillow/hopper.png | 128x128
tricky_pillow/hopper.webp | 128x128
tricky_pillow/hopper_16bit_qtables.jpg | 128x128
tricky_pillow/hopper_gray.jpg | 128x128
tricky_pillow/hopper_idat_after_image_end.png | 128x128
tricky_pillow/hopper_orientation_2.jpg | 128x128 turned 2
tricky_pillow/hopper_orientation_3.jpg | 128x128 turned 3
tricky_pillow/hopper_orientation_6.jpg | 128x128 turned 6
tricky_pillow/hopper_orientation_6.webp | 128x128 turned 6
tricky_pillow/i_trns.png | 64x64
tricky_pillow/icc_profile.png | 57x57
tricky_pillow/invalid-exif.jpg | 200x200
tricky_pillow/iss634.gif | 245x245 frames 42
tricky_pillow/iss634.webp | 245x245 frames 42
tricky_pillow/junk_jpeg_header.jpg | 1024x768
tricky_pillow/l_trns.png | 64x64
tricky_pillow/missing_background.gif | 32x32 frames 4
tricky_pillow/multipage.tiff | 10x10 frames 3
tricky_pillow/no_palette.gif | 1x1 frames 2
tricky_pillow/p_trns_single.png | 64x64
tricky_pillow/pil_sample_cmyk.jpg | 100x100
tricky_pillow/pil_sample_rgb.jpg | 100x100
tricky_pillow/png_decompression_dos.png | decompression_bomb: Decompressed data too large
tricky_pillow/rgb_trns.png | 64x64
tricky_pillow/seek_too_large.tif | corrupt_image: Unable to seek to frame
tricky_pillow/tRNS_null_1x1.png | 1x1
tricky_pillow/tiff_16bit_RGB.tiff | 100x40
tricky_pillow/tiff_16bit_RGB_target.png | 100x40
tricky_pillow/transparent.gif | 200x150
tricky_pillow/transparent.png | 200x150
tricky_pillow/transparent.webp | 200x150
tricky_pillow/truncated_image.png | corrupt_image: Truncated File Read
tricky_pillow/truncated_jpeg.jpg | corrupt_image: image file is truncated (8 bytes not processed)
tricky_pillow/uncompressed_la.png | 128x128
tricky_pillow/xmp_tags_orientation_exiftool.png | 10x10 turned 3
tricky_pillow/zero_width.gif | corrupt_image: the header of a gif file is broken
exif_orientation/Landscape_1.jpg | 1800x1200
exif_orientation/Landscape_3.jpg | 1800x1200 turned 3
exif_orientation/Landscape_5.jpg | 1800x1200 turned 5
exif_orientation/Landscape_6.jpg | 1800x1200 turned 6
exif_orientation/Landscape_8.jpg | 1800x1200 turned 8
heic/heif/LA_8__29x100.heif | 29x100
heic/heif/L_8__128x128.heif | 128x128
heic/heif/RGBA_10__29x100.heif | 29x100
heic/heif/RGB_8__128x128.heif | 128x128
heic/heif/zPug_3.heic | 64x64 frames 3
heic/heif_corrupted/empty.heic | empty_file: the file has no bytes
heic/heif_truncated/truncated.heic | corrupt_image: truncated; missing bytes: 1
tricky_formats/image_size/invalid/sample.png | corrupt_image: the header of a png file is broken
tricky_formats/image_size/valid/heif/sample.avif | 123x456
tricky_formats/image_size/valid/jpg/1x2-flipped-big-endian.jpg | 2x1 turned 8
tricky_formats/image_size/valid/jpg/progressive.jpg | 123x456
tricky_formats/image_size/valid/jxl/sample.jxl | unsupported_image: JPEG XL is not read
tricky_formats/image_size/valid/tiff/bigtiff-jpeg.tiff | 123x456
tricky_formats/image_size/valid/webp/extended.webp | 123x456
tricky_formats/sharp/16-bit-grey-alpha.png | 109x96
tricky_formats/sharp/2x2_fdcce6.png | 2x2
tricky_formats/sharp/65536-uint32-limit.png | too_many_pixels: 4294967296 pixels
tricky_formats/sharp/Channel_digital_image_CMYK_color_no_profile.jpg | 500x333
tricky_formats/sharp/animated-loop-3.gif | 370x285 frames 10
tricky_formats/sharp/animated-loop-3.webp | 370x285 frames 10
tricky_formats/sharp/corrupt-header.jpg | corrupt_image: Truncated File Read
tricky_formats/sharp/full-transparent.png | 300x300
tricky_formats/sharp/grey-8bit-alpha.png | 400x300
tricky_formats/sharp/grey-plus-alpha.gif | 2x1
tricky_formats/sharp/low-contrast.jpg | 300x245
tricky_formats/sharp/swiss.png | 68x68
tricky_formats/sharp/truncated.jpg | corrupt_image: image file is truncated (10 bytes not processed)
tricky_formats/sharp/truncated.png | corrupt_image: Truncated File Read
turntable_gifs/a_birthday_cupcake/0.gif | 128x128 frames 24
turntable_gifs/a_birthday_cupcake/1.gif | 128x128 frames 24
turntable_gifs/a_birthday_cupcake/2.gif | 128x128 frames 24
turntable_gifs/a_birthday_cupcake/3.gif | 128x128 frames 24
turntable_gifs/a_campfire/0.gif | 128x128 frames 24
turntable_gifs/a_campfire/1.gif | 128x128 frames 24
turntable_gifs/a_campfire/2.gif | 128x128 frames 24
turntable_gifs/a_campfire/3.gif | 128x128 frames 24
turntable_gifs/a_green_boot/0.gif | 128x128 frames 24
turntable_gifs/a_green_boot/1.gif | 128x128 frames 24
turntable_gifs/a_green_boot/2.gif | 128x128 frames 24
turntable_gifs/a_green_boot/3.gif | 128x128 frames 24
quality_filtering/image_101.png | 256x256
quality_filtering/image_103.png | 307x512
quality_filtering/image_142.png | 377x240
quality_filtering/image_236.png | 377x240
quality_filtering/image_408.png | 307x512
quality_filtering/image_417.png | 511x512
quality_filtering/image_588.png | 500x374
quality_filtering/image_591.png | 512x512
quality_filtering/image_601.png | 500x375
quality_filtering/image_604.png | 15754x1382
"""

# A GIF is a video where a row says so; other moving images are not.
FACTS = ("frames", "fps", "duration", "rotation", "pixel_aspect")
VIDEOS = r"""
tricky_pillow/hopper.png | unsupported_video: a png file; of images, only GIFs are read as videos
tricky_pillow/iss634.gif | 245x245 frames 42 fps 14.84 duration 2.83
tricky_pillow/iss634.webp | unsupported_video: a webp file; of images, only GIFs are read as videos
tricky_pillow/zero_width.gif | corrupt_video: truncated; missing bytes: at least 1
heic/heif_corrupted/empty.heic | empty_file: the file has no bytes
tricky_videos/corrupted.mp4 | corrupt_video: after 28 frames: Invalid data found
tricky_videos/unordered.mov | 50x50 frames 4 fps 32 duration 0.125
tricky_videos/video_0.mov | 568x320 frames 3 fps 30 duration 0.1
tricky_videos/video_180.mov | 568x320 frames 3 fps 30 duration 0.1 rotation 180
tricky_videos/video_270.mov | 320x568 frames 3 fps 30 duration 0.1 rotation 270
tricky_videos/video_90.mov | 320x568 frames 3 fps 30 duration 0.1 rotation 90
captioned_videos/example_videos/horse.mp4 | 720x480 frames 49 fps 8 duration 6.125
captioned_videos/example_videos/kitten.mp4 | 720x480 frames 49 fps 8 duration 6.125
captioned_videos/mmaction2/part_0.mp4 | 340x256 frames 32 fps 30 duration 1.067 pixel_aspect 1.339
captioned_videos/videos/1.mp4 | 720x480 frames 49 fps 8 duration 6.125
captioned_videos/videos/4.mp4 | 720x480 frames 49 fps 8 duration 6.125
turntable_gifs/a_birthday_cupcake/0.gif | 128x128 frames 24 fps 8.333 duration 2.88
turntable_gifs/a_birthday_cupcake/1.gif | 128x128 frames 24 fps 8.333 duration 2.88
turntable_gifs/a_birthday_cupcake/2.gif | 128x128 frames 24 fps 8.333 duration 2.88
turntable_gifs/a_birthday_cupcake/3.gif | 128x128 frames 24 fps 8.333 duration 2.88
turntable_gifs/a_campfire/0.gif | 128x128 frames 24 fps 8.333 duration 2.88
turntable_gifs/a_campfire/1.gif | 128x128 frames 24 fps 8.333 duration 2.88
turntable_gifs/a_campfire/2.gif | 128x128 frames 24 fps 8.333 duration 2.88
turntable_gifs/a_campfire/3.gif | 128x128 frames 24 fps 8.333 duration 2.88
turntable_gifs/a_green_boot/0.gif | 128x128 frames 24 fps 8.333 duration 2.88
turntable_gifs/a_green_boot/1.gif | 128x128 frames 24 fps 8.333 duration 2.88
turntable_gifs/a_green_boot/2.gif | 128x128 frames 24 fps 8.333 duration 2.88
turntable_gifs/a_green_boot/3.gif | 128x128 frames 24 fps 8.333 duration 2.88
"""


def table(text):
    return dict(line.split(" | ") for line in text.strip().splitlines())


def outcomes(raw, results, paths, kind):
    """What became of each file, in the words of the tables."""
    rows = [
        {
            "image" if kind == "image" else "video": path,
            "conversations": [
                {"from": "human", "value": f"<{kind}>\nWhat is it?"},
                {"from": "gpt", "value": "A test."},
            ],
        }
        for path in paths
    ]
    (raw / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"format_options": {"annotations": "rows.jsonl"}, "threads": 2}
    manifest = lock_and_convert(results, kind, raw, "llava", None, **options)
    found = {}
    for sample in samples_of(results, kind):
        (medium,) = sample["media"]
        words = [f"{medium['width']}x{medium['height']}"]
        if orientation := sample["meta"].get("exif_orientation"):
            words.append(f"turned {orientation}")
        for facts in sample["meta"].get("media", []):
            words += [f"{name} {facts[name]:.4g}" for name in FACTS if name in facts]
        found[medium["path"]] = " ".join(words)
    for reject in rejects_of(results, kind):
        path, _, detail = reject["detail"].partition(": ")
        found[path] = f"{reject['reason']}: {detail}"
    assert manifest["rows"]["in"] == len(paths)
    assert manifest["rows"]["kept"] == sum(found[path][0].isdigit() for path in paths)
    return found


def check(found, expected):
    assert found.keys() == expected.keys()
    for path, words in expected.items():
        is_right = found[path].startswith(words) if ": " in words else found[path] == words
        assert is_right, f"{path}: {found[path]}, not {words}"


@pytest.fixture
def raw(shared_data, tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    for name in FOLDERS:
        (folder / name).symlink_to(shared_data / name)
    return folder


def test_images(raw, tmp_path):
    expected = table(IMAGES)
    files = [path for name in FOLDERS for path in (raw / name).rglob("*") if path.is_file()]
    images = [path for path in files if path.suffix not in (*VIDEO_ENDINGS, ".jsonl")]
    assert {str(path.relative_to(raw)) for path in images} == expected.keys()
    check(outcomes(raw, tmp_path / "results", list(expected), "image"), expected)


def test_videos(raw, tmp_path):
    expected = table(VIDEOS)
    files = [path for name in FOLDERS for path in (raw / name).rglob("*") if path.is_file()]
    videos = {str(path.relative_to(raw)) for path in files if path.suffix in VIDEO_ENDINGS}
    assert videos == {path for path in expected if path.endswith(VIDEO_ENDINGS)}
    check(outcomes(raw, tmp_path / "results", list(expected), "video"), expected)


@pytest.mark.parametrize(
    ("name", "like"),
    [
        *((f"hopper_orientation_{n}.jpg", "hopper.png") for n in (2, 3, 6)),
        *((name, "hopper.png") for name in ("hopper.webp", "hopper_orientation_6.webp")),
        ("hopper.bmp", "hopper.png"),
        ("hopper_idat_after_image_end.png", "hopper.png"),
        ("pil_sample_cmyk.jpg", "pil_sample_rgb.jpg"),
        ("tiff_16bit_RGB.tiff", "tiff_16bit_RGB_target.png"),
        ("transparent.webp", "transparent.png"),
        ("transparent.gif", "transparent.png"),
        ("iss634.webp", "iss634.gif"),
        *((f"{EXIF}_{n}.jpg", f"{EXIF}_1.jpg") for n in (3, 5, 6, 8)),
    ],
)
def test_pictures_look_like_those_they_were_made_of(shared_data, name, like):
    folder = shared_data / "tricky_pillow"
    first, second = (decode_rgb((folder / path).read_bytes()) for path in (name, like))
    assert first.size == second.size
    difference = np.abs(np.asarray(first).astype(float) - np.asarray(second)).mean()
    assert difference < 8, difference  # of 255; turned or mirrored ones are beyond 14
