"""Frames of a video: which ones a model sees, and their pixels."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from shardline.rows import Rejection
from shardline.videos import first_stream, open_video, words

if TYPE_CHECKING:
    import av

# The same pixels on every kind of processor, and no shortcuts in the arithmetic of colours.
SCALING = "flags=bicubic+accurate_rnd+full_chroma_int+bitexact"


def frame_numbers(frames: int, duration: float, options: Mapping[str, Any]) -> list[int]:
    """Which frames of a video a model sees: evenly spread, the first and the last among them.

    Args:
        frames: how many the video has.
        duration: its seconds.
        options: ``interval``: seconds from one frame to the next, which ``min_frames`` and
            ``max_frames`` bound: the rule of the published Qwen-VL training.

    Returns:
        Rising frame numbers from 0; fewer than asked for where the video has fewer.
    """
    wanted = round(duration / options["interval"])
    wanted = min(max(wanted, options["min_frames"]), options["max_frames"])
    steps = max(wanted - 1, 1)
    return sorted({number * (frames - 1) // steps for number in range(wanted)})


def read_frames(data: bytes, numbers: Sequence[int]) -> list[np.ndarray]:
    """Frames of a video file, uint8 [height, width, 3], upright, by their rising numbers.

    Numbers count in decoding order.

    Raises:
        Rejection: it does not decode so far.
    """
    import av

    wanted = set(numbers)
    found: list[np.ndarray] = []
    try:
        with open_video(io.BytesIO(data)) as container:
            stream = first_stream(container)
            to_rgb: _ToRgb | None = None
            for number, frame in enumerate(container.decode(stream)):
                to_rgb = to_rgb or _ToRgb(frame, stream)
                if number in wanted:
                    found.append(to_rgb(frame))
                    if len(found) == len(wanted):
                        return found
    except (av.FFmpegError, ValueError) as error:
        raise Rejection("corrupt_video", f"after {len(found)} frames: {words(error)}") from None
    raise Rejection("corrupt_video", f"{len(found)} of the {len(wanted)} frames asked for decode")


class _ToRgb:
    """Turns the frames of one stream into upright pixels."""

    def __init__(self, first: av.VideoFrame, stream: av.VideoStream) -> None:
        import av

        quarters, skew = divmod(first.rotation % 360, 90)
        self.quarters = 0 if skew else quarters  # that a player turns them, anticlockwise
        self.graph = av.filter.Graph()
        self.graph.link_nodes(
            self.graph.add_buffer(
                width=first.width,
                height=first.height,
                format=first.format,
                time_base=stream.time_base,
            ),
            self.graph.add("scale", f"{first.width}:{first.height}:{SCALING}"),
            self.graph.add("format", "rgb24"),
            self.graph.add("buffersink"),
        ).configure()

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        self.graph.vpush(frame)
        return np.ascontiguousarray(np.rot90(self.graph.vpull().to_ndarray(), self.quarters))
