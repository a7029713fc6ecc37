"""The media audit: does each image exist, decode to its end, and have the size its rows claim?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from shardline import locks
from shardline.files import sha256_bytes
from shardline.images import TURNED, BadImage, decode
from shardline.parallel import Workers
from shardline.rows import Rejection


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What is true of an image file; ``width`` and ``height`` are after EXIF orientation.

    ``reason`` is empty for a good one, else why it is rejected, with ``detail``.
    """

    width: int = 0
    height: int = 0
    sha256: str = ""
    orientation: int = 1
    reason: str = ""
    detail: str = ""


def audit_image(path: str, max_pixels: int) -> Audit:
    """Read and decode one image file; every problem with it becomes the audit's ``reason``."""
    try:
        data = Path(path).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return Audit(reason="missing_image", detail="no such file")
    except (IsADirectoryError, PermissionError) as error:
        return Audit(reason="unreadable_image", detail=error.strerror)
    sha256 = sha256_bytes(data)
    try:
        image, orientation = decode(data, max_pixels)
    except BadImage as problem:
        return Audit(sha256=sha256, reason=problem.reason, detail=problem.detail)
    width, height = image.size
    if orientation in TURNED:
        width, height = height, width
    return Audit(width=width, height=height, sha256=sha256, orientation=orientation)


class Auditor:
    """Audits images below ``raw``, each once however many rows use it."""

    def __init__(
        self, raw: Path, locked: dict[str, locks.LockedFile], max_pixels: int, workers: Workers
    ) -> None:
        self.raw = raw
        self.locked = locked
        self.max_pixels = max_pixels
        self.workers = workers
        self.audits: dict[str, Audit] = {}

    def audit(self, paths: Iterable[str]) -> None:
        """Audit those of ``paths`` (relative to ``raw``) that are new, on all workers.

        Raises:
            DataError: a file is not what was locked.
        """
        new = [path for path in dict.fromkeys(paths) if path not in self.audits]
        function = partial(audit_image, max_pixels=self.max_pixels)
        files = [str(self.raw / path) for path in new]
        for path, audit in zip(new, self.workers.map(function, files), strict=True):
            locks.check(self.raw, path, audit.sha256, self.locked)
            self.audits[path] = audit

    def check(self, path: str, width: int, height: int, *, in_pixels: bool) -> tuple[Audit, str]:
        """The audit of ``path`` against its declared size (0, 0: none is declared).

        Boxes in pixels need the very size, upright; relative ones hold for any scale of the same
        picture.

        Returns:
            The audit, and a note where the declared size is another scale, else "".

        Raises:
            Rejection: the audit's reason, or ``size_mismatch``.
        """
        audit = self.audits[path]
        if audit.reason:
            raise Rejection(audit.reason, f"{path}: {audit.detail}")
        if (width, height) in ((0, 0), (audit.width, audit.height)):
            return audit, ""
        same_shape = abs(width * audit.height / height - audit.width) <= 1
        if in_pixels or not same_shape:
            turned = f", upright by EXIF orientation {audit.orientation}" * (audit.orientation > 1)
            raise Rejection(
                "size_mismatch",
                f"{path}: {width}x{height} is declared, it is {audit.width}x{audit.height}{turned}",
            )
        return audit, f"{width}x{height}"
