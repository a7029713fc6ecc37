"""Decoding video files whole, to see that they can be and what they are."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, BinaryIO

from shardline.containers import missing_bytes
from shardline.embedded import image_extension
from shardline.rows import Rejection

if TYPE_CHECKING:
    import av

DEMUXERS = (  # no playlists and no image sequences: those read other files, or the network
    *("mov", "mp4", "matroska", "webm", "avi", "gif", "mpegts", "mpeg", "flv", "asf", "ogg"),
)
PADDING = 1_000_000  # pixels, for the margins that decoders put around frames
SAME_RATE = 0.01  # share of the frames by which a true rate may miss their rounded times


@dataclass(frozen=True, kw_only=True)
class Video:
    """What a video file really holds.

    ``width`` and ``height`` are of a frame in pixels, upright; ``rotation`` is by how many degrees,
    clockwise, a player turns the stored frames to show them so. ``frames`` counts those that
    decode, ``duration`` is in seconds to the end of the last, ``fps`` is their mean rate.
    ``pixel_aspect`` is a pixel's width by its height as shown.
    """

    width: int
    height: int
    frames: int
    fps: float
    duration: float
    rotation: int
    pixel_aspect: float

    def facts(self) -> dict[str, Any]:
        """What a sample says of the video beside its size."""
        facts: dict[str, Any] = {
            "frames": self.frames,
            "fps": self.fps,
            "duration": self.duration,
        }
        if self.rotation:
            facts["rotation"] = self.rotation
        if self.pixel_aspect != 1:
            facts["pixel_aspect"] = self.pixel_aspect
        return facts


def probe_video(path: str, max_pixels: int) -> Video:
    """Decode every frame of a video file's first video stream.

    Raises:
        OSError: the file cannot be read.
        Rejection: ``empty_file``, ``corrupt_video`` (truncated ones too), ``unsupported_video``,
            ``no_video_stream`` or ``too_many_pixels`` (a frame).
    """
    with open(path, "rb") as file:
        if not (head := file.read(16)):
            raise Rejection("empty_file", "the file has no bytes")
        if lacks := missing_bytes(file):
            raise Rejection("corrupt_video", f"truncated; missing bytes: at least {lacks}")
    import av

    try:
        container = open_video(path)
    except (av.FFmpegError, ValueError) as error:
        if (kind := image_extension(head)) not in ("bin", "gif"):
            detail = f"a {kind} file; of images, only GIFs are read as videos"
            raise Rejection("unsupported_video", detail) from None
        raise Rejection("corrupt_video", f"no video format that we know: {words(error)}") from None
    with container:
        return _decode(_stream(container, max_pixels), max_pixels)


def open_video(source: str | BinaryIO) -> av.container.InputContainer:
    """Open a video file by its path or its bytes; it may refer to no other file and no network."""
    import av

    return av.open(
        source,
        options={"format_whitelist": ",".join(DEMUXERS), "protocol_whitelist": "file"},
        metadata_errors="replace",
    )


def _stream(container: av.container.InputContainer, max_pixels: int) -> av.VideoStream:
    """The first video stream, ready to be decoded, but without smoothing."""
    stream = first_stream(container)
    context = stream.codec_context
    _check_size(context.width, context.height, max_pixels)
    most = 4 * max_pixels + PADDING  # decoders' own buffers are larger than a frame
    # Smoothing changes what frames look like, not whether they decode, and takes a third.
    context.options = {"skip_loop_filter": "all", "max_pixels": str(most)}
    return stream


def first_stream(container: av.container.InputContainer) -> av.VideoStream:
    """The first video stream, to be decoded by one thread.

    Raises:
        Rejection: ``no_video_stream`` or ``unsupported_video``.
    """
    import av

    pictures = av.stream.Disposition.attached_pic  # the cover of a piece of music
    streams = [stream for stream in container.streams.video if not stream.disposition & pictures]
    if not streams:
        kinds = ", ".join(stream.type for stream in container.streams) or "nothing"
        raise Rejection("no_video_stream", f"{container.format.name} with {kinds}")
    stream = streams[0]
    context = stream.codec_context
    if context is None:
        raise Rejection("unsupported_video", "no decoder for its codec")
    context.thread_count = 1  # files are read in parallel
    return stream


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise Rejection(
            "too_many_pixels", f"frames of {width}x{height} are over the limit of {max_pixels}"
        )


def _decode(stream: av.VideoStream, max_pixels: int) -> Video:
    import av

    count, rotation, size = 0, 0, (0, 0)
    times: list[int] = []  # the first frame's begin, the last one's begin and end, in time_base
    try:
        for packet in stream.container.demux(stream):
            for frame in packet.decode():
                if frame.is_corrupt:
                    raise Rejection("corrupt_video", f"frame {count} is damaged")
                if not count:
                    rotation, size = -frame.rotation % 360, (frame.width, frame.height)
                    _check_size(*size, max_pixels)
                elif size != (frame.width, frame.height):
                    raise Rejection(
                        "unsupported_video",
                        f"frames of {size[0]}x{size[1]}, and from frame {count} on of "
                        f"{frame.width}x{frame.height}",
                    )
                times = _extended(times, frame)
                count += 1
    except (av.FFmpegError, ValueError) as error:
        raise Rejection("corrupt_video", f"after {count} frames: {words(error)}") from None
    if not count:
        raise Rejection("corrupt_video", "no frame decodes")
    fps, duration = _timing(stream, count, times)
    if rotation % 180 == 90:
        size = size[::-1]
    return Video(
        width=size[0],
        height=size[1],
        frames=count,
        fps=round(float(fps), 6),
        duration=round(float(duration), 6),
        rotation=rotation,
        pixel_aspect=round(float(stream.sample_aspect_ratio or 1), 6),
    )


def _extended(times: list[int], frame: av.VideoFrame) -> list[int]:
    """``times`` with one more frame; frames need not come in the order of their times."""
    if frame.pts is None:
        return times
    end = frame.pts + (frame.duration or 0)
    if not times:
        return [frame.pts, frame.pts, end]
    return [min(times[0], frame.pts), max(times[1], frame.pts), max(times[2], end)]


def _timing(stream: av.VideoStream, count: int, times: list[int]) -> tuple[Fraction, Fraction]:
    """Frames a second, and seconds: as the file states, if its frames' times bear that out."""
    stated = Fraction(stream.average_rate or stream.guessed_rate or 0)
    begin, last, end = (time * (stream.time_base or 1) for time in times or (0, 0, 0))
    wrong_by = abs(stated * (last - begin) - (count - 1))  # frames
    if stated and (last == begin or wrong_by <= max(1, SAME_RATE * count)):
        return stated, count / stated
    duration = end - begin if end > last else (last - begin) * Fraction(count, max(1, count - 1))
    return (count / duration if duration else Fraction(0)), Fraction(duration)


def words(error: Exception) -> str:
    """An error's message without the path of the file, which differs between machines."""
    return getattr(error, "strerror", None) or type(error).__name__
