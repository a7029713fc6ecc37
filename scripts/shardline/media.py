"""The media audit: does each image or video exist, decode whole, and have the size rows claim?

What is an image and what a video is the row's to say. A file that moves (GIF, APNG, WebP, AVIF) and
a TIFF of several pages are, listed as an image, what image models make of them: their first frame.
The others must decode too, and the sample's ``meta["media"]`` says how many there are, so that
nobody takes an animation for a still by mistake. A GIF that is listed as a video is one, with all
its frames and their times; of the other moving images no video is made (``unsupported_video``).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from shardline import locks
from shardline.embedded import file_of, read_medium
from shardline.files import sha256_bytes, sha256_file
from shardline.images import TURNED, BadImage, probe
from shardline.parallel import Workers
from shardline.rows import Rejection
from shardline.videos import probe_video

GONE = "no such file"
KEPT = 200_000  # audits in memory (100 MB); older ones are forgotten and made again at need


class Audit(NamedTuple):
    """What is true of a file; ``width`` and ``height`` are upright, in pixels.

    ``reason`` is empty for a good one, else why it is rejected, with ``detail``. ``orientation`` is
    an image's of EXIF. ``facts`` are what a sample says of it in ``meta``: of a video its frames,
    fps, duration and so on, of an animation its frames, of which only the first is used.
    """

    width: int = 0
    height: int = 0
    bytes: int = 0
    sha256: str = ""
    orientation: int = 1
    reason: str = ""
    detail: str = ""
    facts: dict[str, Any] = {}  # noqa: RUF012

    def boxes_turn(self, width: int, height: int) -> bool:
        """Whether a declared size shows that rows mean the picture as it is stored, on its side.

        So it does if it has the stored picture's shape and not the upright one's.
        """
        return (
            self.orientation in TURNED
            and height > 0
            and not _same_shape(width, height, self.width, self.height)
            and _same_shape(width, height, self.height, self.width)
        )


def audit_image(path: str, max_pixels: int) -> Audit:
    """Read and decode one image file; every problem with it becomes the audit's ``reason``."""
    try:
        data = read_medium(path)
    except OSError as error:
        return _unread(error, "image")
    sha256 = sha256_bytes(data)
    try:
        width, height, orientation, frames = probe(data, max_pixels)
    except BadImage as problem:
        return Audit(sha256=sha256, reason=problem.reason, detail=problem.detail)
    return Audit(
        width=width,
        height=height,
        bytes=len(data),
        sha256=sha256,
        orientation=orientation,
        facts={"frames": frames} if frames > 1 else {},
    )


def audit_video(path: str, max_pixels: int) -> Audit:
    """Decode one video file; every problem with it becomes the audit's ``reason``."""
    try:
        sha256 = sha256_file(Path(path))
        video = probe_video(path, max_pixels)
    except OSError as error:
        return _unread(error, "video")
    except Rejection as problem:
        return Audit(sha256=sha256, reason=problem.reason, detail=problem.detail)
    return Audit(
        width=video.width,
        height=video.height,
        bytes=Path(path).stat().st_size,
        sha256=sha256,
        facts=video.facts(),
    )


class Audits:
    """What is true of media, by their paths."""

    def __init__(self, images: dict[str, Audit], videos: dict[str, Audit]) -> None:
        self.audits = images
        self.videos = videos

    def __getstate__(self) -> list[list[tuple[str, tuple[Any, ...]]]]:
        """Plain tuples: named ones take four times as long to reach another process."""
        kinds = (self.audits, self.videos)
        return [[(path, tuple(audit)) for path, audit in known.items()] for known in kinds]

    def __setstate__(self, state: list[list[tuple[str, tuple[Any, ...]]]]) -> None:
        self.audits, self.videos = (
            {path: Audit._make(values) for path, values in known} for known in state
        )

    def check(
        self,
        path: str,
        width: int,
        height: int,
        *,
        in_pixels: bool,
        kind: str = "image",
        boxes_follow: bool = False,
    ) -> tuple[Audit, str]:
        """The audit of ``path`` against its declared size (0, 0: none is declared).

        Boxes in pixels need the very size, upright; relative ones hold for any scale of the same
        picture. The size of the picture as it is stored, on its side, is accepted if the row's
        ``boxes_follow`` when it is turned upright (see `Audit.boxes_turn`).

        Returns:
            The audit, and a note where the declared size is another one, else "".

        Raises:
            Rejection: the audit's reason, or ``size_mismatch``.
        """
        audit = (self.videos if kind == "video" else self.audits)[path]
        if audit.reason:
            raise Rejection(audit.reason, f"{path}: {audit.detail}")
        if (width, height) in ((0, 0), (audit.width, audit.height)):
            return audit, ""
        turned = boxes_follow and audit.boxes_turn(width, height)
        true = (audit.height, audit.width) if turned else (audit.width, audit.height)
        if (in_pixels and (width, height) != true) or not _same_shape(width, height, *true):
            by = f", upright by EXIF orientation {audit.orientation}" * (audit.orientation > 1)
            raise Rejection(
                "size_mismatch",
                f"{path}: {width}x{height} is declared, it is {audit.width}x{audit.height}{by}",
            )
        return audit, f"{width}x{height}"


class Auditor(Audits):
    """Audits images and videos below ``raw``, each once however many rows use it."""

    def __init__(
        self, raw: Path, locked: dict[str, locks.LockedFile], max_pixels: int, workers: Workers
    ) -> None:
        super().__init__({}, {})
        self.raw = raw
        self.locked = locked
        self.max_pixels = max_pixels
        self.workers = workers
        self.containers: set[str] = set()  # files with embedded media that are as locked

    def audit(self, images: Iterable[str], videos: Iterable[str] = ()) -> None:
        """Audit those paths (relative to ``raw``) that are new, on all workers.

        Raises:
            DataError: a file is not what was locked.
        """
        image = partial(audit_image, max_pixels=self.max_pixels)
        self.audits = self._audit(list(dict.fromkeys(images)), self.audits, "image", image)
        video = partial(audit_video, max_pixels=self.max_pixels)
        self.videos = self._audit(list(dict.fromkeys(videos)), self.videos, "video", video)

    def _audit(
        self, paths: Sequence[str], known: dict[str, Audit], kind: str, function: partial[Audit]
    ) -> dict[str, Audit]:
        """The audits in ``known`` and those of ``paths``."""
        if len(known) > KEPT:
            known = {path: known[path] for path in paths if path in known}
        found = {}
        for path in paths:
            if path not in known:
                file = file_of(path)
                there = file in self.locked or os.path.exists(self.raw / file)
                found[path] = None if there else Audit(reason=f"missing_{kind}", detail=GONE)
        new = [path for path, audit in found.items() if audit is None]
        files = [str(self.raw / path) for path in new]
        for path, audit in zip(new, self.workers.map(function, files), strict=True):
            self._check_lock(path, audit.sha256)
            found[path] = audit
        known.update(found)
        return known

    def _check_lock(self, path: str, sha256: str) -> None:
        file = file_of(path)
        if file == path:
            locks.check(self.raw, path, sha256, self.locked)
        elif file not in self.containers:
            locks.check(self.raw, file, sha256_file(self.raw / file), self.locked)
            self.containers.add(file)


def _same_shape(width: int, height: int, true_width: int, true_height: int) -> bool:
    """Whether a size is a scale of the true one, rounded to whole pixels of the true one."""
    return abs(width * true_height / height - true_width) <= 1


def _unread(error: OSError, kind: str) -> Audit:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return Audit(reason=f"missing_{kind}", detail=GONE)
    return Audit(reason=f"unreadable_{kind}", detail=error.strerror or type(error).__name__)
