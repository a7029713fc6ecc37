"""What is asked of the Hugging Face Hub: the files of a revision, and one file after another.

Addresses, headers and requests are those of `huggingface_hub`, which honours ``HF_ENDPOINT`` and
the proxy variables. The token is read from ``HF_TOKEN`` and from nowhere else; no message repeats
it. A file that was cut off is continued, also by a later run; it gets its name once its hash is the
one that the hub states.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from shardline.downloads import ATTEMPTS, PASSING, git_sha1_file, retry_after, wait
from shardline.errors import ConfigError, DataError, UserError
from shardline.files import sha256_file
from shardline.redact import redact_text

TRUE = {"1", "ON", "YES", "TRUE"}
COMMIT = re.compile(r"[0-9a-f]{40}")
Answer = TypeVar("Answer")


class HubFile(NamedTuple):
    """Size and hash that the hub states of a file: ``sha256`` in LFS, else ``git_sha1``."""

    bytes: int
    sha256: str
    git_sha1: str


class Repository:
    """A dataset or model of the hub."""

    def __init__(self, name: str, kind: str) -> None:
        """Take ``owner/name`` and ``dataset`` or ``model``; nothing is asked yet.

        Raises:
            DataError: the network is switched off.
        """
        from huggingface_hub import HfApi, constants
        from huggingface_hub.utils import disable_progress_bars

        self.name, self.kind = name, kind
        self.where = f"{kind} {name}"
        self.token = os.environ.get("HF_TOKEN") or False  # False: not the one stored by a login
        self.endpoint = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
        self._api = HfApi(endpoint=self.endpoint, token=self.token)
        folder = "datasets/" if kind == "dataset" else ""
        self.page = redact_text(f"{self.endpoint}/{folder}{name}")
        if os.environ.get("HF_HUB_OFFLINE", "").upper() in TRUE:
            raise DataError(
                f"{self.where} is not here yet and HF_HUB_OFFLINE is set: unset it to fetch, or "
                "download it elsewhere and name it as folder:/path"
            )
        disable_progress_bars()

    def files(self, revision: str) -> tuple[str, dict[str, HubFile]]:
        """The commit that a revision names, and the files of that commit by path.

        Raises:
            ConfigError: no such repository or revision.
            DataError: no access, or no network.
        """
        return self._patiently(lambda: self._list(revision), revision)

    def _list(self, revision: str) -> tuple[str, dict[str, HubFile]]:
        from huggingface_hub.hf_api import RepoFile

        commit = revision
        if not COMMIT.fullmatch(revision):
            commit = self._api.repo_info(self.name, revision=revision, repo_type=self.kind).sha
        entries = self._api.list_repo_tree(
            self.name, revision=commit, repo_type=self.kind, recursive=True
        )
        found = {}
        for entry in entries:
            if isinstance(entry, RepoFile):
                sha256 = entry.lfs.sha256 if entry.lfs else ""
                found[entry.path] = HubFile(entry.size, sha256, entry.blob_id)
        return commit, found

    def download(self, commit: str, path: str, stated: HubFile, target: Path, part: Path) -> None:
        """Fetch one file to ``target``; ``part`` holds what came before a cut.

        Raises:
            DataError: it cannot be had, or is not what the hub states.
        """
        self._patiently(lambda: self._read(commit, path, stated, part), commit, lambda: _size(part))
        if problem := _difference(part, stated):
            part.unlink()
            raise DataError(
                f"{self.where}: {path} {problem}; it was damaged on the way and is not kept: run "
                "again"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(part, target)

    def _read(self, commit: str, path: str, stated: HubFile, part: Path) -> None:
        from huggingface_hub import file_download, hf_hub_url
        from huggingface_hub.utils import build_hf_headers

        url = hf_hub_url(
            self.name, path, repo_type=self.kind, revision=commit, endpoint=self.endpoint
        )
        headers = build_hf_headers(token=self.token, headers={"Accept-Encoding": "identity"})
        if (before := _size(part)) > stated.bytes:
            part.unlink()
            before = 0
        with open(part, "ab") as file:
            file_download.http_get(
                url, file, resume_size=before, headers=headers, expected_size=stated.bytes
            )

    def _patiently(
        self, ask: Callable[[], Answer], revision: str, progress: Callable[[], int] = int
    ) -> Answer:
        """Ask again where the hub is busy or a connection breaks; other failures become messages.

        Args:
            progress: bytes that are there; as long as they grow, there is no last attempt.
        """
        from huggingface_hub import errors

        attempt, before = 0, progress()
        while True:
            attempt += 1
            pause = None
            try:
                return ask()
            except errors.GatedRepoError:
                raise DataError(
                    f"{self.where} is gated: accept its terms at {self.page}, then {self._advice()}"
                ) from None
            except errors.RevisionNotFoundError:
                raise ConfigError(f"{self.where} has no revision {revision!r}") from None
            except errors.HfHubHTTPError as error:
                status = error.response.status_code
                failure = self._refusal(status)
                if status not in PASSING:
                    raise failure from None
                pause = retry_after(error.response.headers)
            except (errors.HTTPError, ConnectionError) as error:
                failure = DataError(
                    f"cannot reach the hub for {self.where} ({type(error).__name__}): check the "
                    "network, the proxy and HF_ENDPOINT and run again, which goes on where this "
                    "ended, or download it elsewhere and name it as folder:/path"
                )
                if "Connect" in type(error).__name__ or "Proxy" in type(error).__name__:
                    raise failure from None
            except OSError as error:
                if error.errno is not None:
                    raise
                failure = DataError(f"{self.where}: {str(error).splitlines()[0]}")
            if (now := progress()) > before:
                attempt, before = 1, now
            if attempt == ATTEMPTS:
                raise failure
            wait(attempt, pause)

    def _refusal(self, status: int) -> UserError:
        if status == 403:
            return DataError(f"the hub refuses access to {self.where} (403): {self._advice()}")
        if status == 401:
            return DataError(
                f"{self.where}: the hub knows no such public repository, or it is private (401): "
                f"check the name, or {self._advice()}"
            )
        if status == 404:
            return ConfigError(f"{self.where} does not exist at the hub (404): check {self.page}")
        return DataError(
            f"the hub answers {status} for {self.where} after {ATTEMPTS} attempts: try again later"
        )

    def _advice(self) -> str:
        if self.token:
            return "see that the token in HF_TOKEN is valid and may read it"
        return "set HF_TOKEN to a token that may read it"


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _difference(file: Path, stated: HubFile) -> str:
    """How a file differs from what the hub states of it; "" if it does not."""
    if (size := file.stat().st_size) != stated.bytes:
        return f"has {size} bytes, the hub states {stated.bytes}"
    if stated.sha256:
        found, wanted = sha256_file(file), stated.sha256
    elif stated.git_sha1.strip("0"):
        found, wanted = git_sha1_file(file), stated.git_sha1
    else:
        return ""
    return "" if found == wanted else f"hashes to {found[:16]}…, the hub states {wanted[:16]}…"
