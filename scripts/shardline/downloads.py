"""One file from the web: resumed where it was cut off, streamed, put in place when it is whole."""

from __future__ import annotations

import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from shardline.errors import DataError
from shardline.files import sha256_file

CHUNK = 1 << 20
ATTEMPTS = 5  # in a row without one new byte
LONGEST_WAIT = 300.0  # seconds; a hub's window of requests is five minutes
SECONDS = 60.0  # patience with a silent server
PASSING = (408, 425, 429, 500, 502, 503, 504)


def download(url: str, target: Path, sha256: str) -> None:
    """Fetch ``url`` to ``target``; ``<target>.part`` holds what came before a cut.

    Args:
        url: http or https; redirects are followed, proxies of the environment are used.
        target: where the whole file goes.
        sha256: what the file must hash to.

    Raises:
        DataError: it cannot be had, or is another file.
    """
    part = target.with_name(f"{target.name}.part")
    attempts = 0
    while True:
        before = part.stat().st_size if part.is_file() else 0
        try:
            _read(url, part, before)
            break
        except urllib.error.HTTPError as error:
            if error.code == 416 and before:  # nothing after what is there: see its hash
                break
            if error.code not in PASSING:
                raise DataError(f"{url}: the server answers {error.code} {error.reason}") from None
            problem, pause = f"the server answers {error.code}", retry_after(error.headers)
        except urllib.error.URLError as error:
            problem, pause = f"cannot connect: {error.reason}", None
        except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
            problem, pause = f"the connection broke ({type(error).__name__})", None
        now = part.stat().st_size if part.is_file() else 0
        attempts = 1 if now > before else attempts + 1
        if attempts == ATTEMPTS:
            raise DataError(
                f"{url}: {problem}; tried {ATTEMPTS} times. Check the network and the proxy and "
                f"run again: it goes on from byte {now:,}"
            )
        wait(attempts, pause)
    if (found := sha256_file(part)) != sha256:
        part.unlink()
        raise DataError(
            f"{url}: sha256 {found}, but {sha256} is expected: the file was changed or damaged on "
            "the way; nothing of it was kept"
        )
    os.replace(part, target)


def _read(url: str, part: Path, before: int) -> None:
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity"})
    if before:
        request.add_header("Range", f"bytes={before}-")
    opener = urllib.request.build_opener()  # the shared one keeps the proxies of its first use
    with opener.open(request, timeout=SECONDS) as response:
        resumed = response.status == 206
        with open(part, "ab" if resumed else "wb") as file:
            while chunk := response.read(CHUNK):
                file.write(chunk)
        if response.length:
            raise http.client.IncompleteRead(b"", response.length)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait; None where it does not say, or names a date."""
    value = headers.get("Retry-After", "").strip()
    return min(float(value), LONGEST_WAIT) if value.isdigit() else None


def wait(attempt: int, pause: float | None) -> None:
    """Wait before the next attempt: as long as the server asks, else 1, 2, 4, … seconds."""
    time.sleep(2.0 ** (attempt - 1) if pause is None else pause)


def git_sha1_file(path: Path) -> str:
    """Hex name that git gives a file: what the hub states of files that are not in LFS."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
