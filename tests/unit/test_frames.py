"""Frames of videos: the published rule of sampling, upright pictures, nothing half decoded."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardline.errors import DataError
from shardline.families import qwen2_vl
from shardline.frames import frame_numbers, read_frames
from shardline.pictures import decode_medium, media_grids, sampled
from shardline.rows import Rejection
from shardline.samples import Medium, Sample
from shardline.videos import probe_video

RULE = {"interval": 2.0, "min_frames": 4, "max_frames": 8}
LIMITS = {"min_visual_tokens": 4, "max_visual_tokens": 16}


@pytest.mark.parametrize(
    ("frames", "duration", "expected"),
    [
        (49, 6.125, [0, 16, 32, 48]),
        (434, 144.7, [0, 61, 123, 185, 247, 309, 371, 433]),
        (243, 9.72, [0, 60, 121, 181, 242]),
        (3, 0.1, [0, 1, 2]),
        (1, 0.04, [0]),
    ],
)
def test_golden_frames(frames, duration, expected):
    assert frame_numbers(frames, duration, RULE) == expected


@given(st.integers(1, 5000), st.floats(0.01, 1000), st.integers(1, 9), st.integers(0, 30))
def test_frames_are_the_published_rules(frames, duration, least, more):
    options = {"interval": 2.0, "min_frames": least, "max_frames": least + more}
    found = frame_numbers(frames, duration, options)
    wanted = min(max(round(duration / 2.0), least), least + more)
    exact = np.linspace(0, frames - 1, wanted)
    assert found == sorted(set(found)) and found[0] == 0 and len(found) <= wanted
    assert all(np.abs(exact - number).min() < 1 for number in found)
    assert wanted == 1 or found[-1] == frames - 1
    assert len(found) == min(wanted, frames)


def clip(shared_data, name, **changes):
    """A sample of a real video, and its bytes."""
    path = shared_data / name
    video = probe_video(str(path), 10**8)
    medium = Medium(kind="video", path=name, width=video.width, height=video.height)
    meta = {"media": [{**video.facts(), **changes}]}
    return Sample(id=f"d:{name}#0", dataset="d", media=[medium], meta=meta), path.read_bytes()


@pytest.mark.parametrize("turned", [0, 90, 180, 270])
def test_turned_videos_are_upright_and_the_same_every_time(shared_data, turned):
    sample, data = clip(shared_data, f"tricky_videos/video_{turned}.mov")
    options = {"video": {**RULE, **LIMITS}}
    media = decode_medium(sample, 0, data, options)
    assert len(media.frames) == 3 and media.interval == pytest.approx(0.1 / 3)
    assert media.size == ((568, 320) if turned % 180 == 0 else (320, 568))
    again = decode_medium(sample, 0, data, options)
    assert [one.tobytes() for one in media.frames] == [two.tobytes() for two in again.frames]
    [grid] = media_grids(sample, qwen2_vl, options)
    assert grid[0] == 2  # three frames, the last of them twice
    stacked = qwen2_vl.resize(media.frames, grid, options)
    assert stacked.shape == (3 * grid[1] * 14, grid[2] * 14, 3)


def test_colours_are_those_of_the_usual_reader(shared_data):
    import av

    path = shared_data / "captioned_videos/example_videos/kitten.mp4"
    [ours] = read_frames(path.read_bytes(), [7])
    with av.open(str(path)) as container:
        frame = next(frame for number, frame in enumerate(container.decode(video=0)) if number == 7)
    difference = np.abs(np.asarray(ours).astype(int) - frame.to_ndarray(format="rgb24"))
    assert difference.mean() < 1.5


def test_a_video_that_is_not_what_its_sample_says_is_an_error(shared_data):
    options = {"video": {**RULE, **LIMITS}}
    sample, data = clip(shared_data, "tricky_videos/video_0.mov", frames=99)
    with pytest.raises(DataError, match=r"video 0 of d:tricky.*: 1 of the 4 frames"):
        decode_medium(sample, 0, data, options)
    sample, data = clip(shared_data, "tricky_videos/video_0.mov")
    sample.media[0].width += 1
    with pytest.raises(DataError, match="its sample says 569x320"):
        decode_medium(sample, 0, data, options)
    with pytest.raises(DataError, match="video 0 of d:"):
        decode_medium(sample, 0, data[:2000], options)
    sample.meta = {}
    with pytest.raises(DataError, match="frames and duration of video 0"):
        sampled(sample, 0, options)
    with pytest.raises(Rejection, match="corrupt_video"):
        read_frames(b"no video", [0])
