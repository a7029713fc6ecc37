"""``hub://owner/name@revision``: a snapshot of a dataset or model of the Hugging Face Hub.

``source_options: {allow: [patterns]}`` takes only matching files, ``{extract: [patterns]}`` unpacks
matching zip and tar archives where they lie and keeps what was in them. Models are taken without
weights that are pickles unless ``allow`` names them. The token is read from ``HF_TOKEN`` and from
nowhere else; no message and no file repeats it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shardline import folders
from shardline.archives import extract_matching
from shardline.errors import ConfigError, DataError
from shardline.files import short_hash
from shardline.locks import list_files

PLACE = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)@(?P<revision>[\w./-]+)")
UNPACKING = ".unpacking"
MODEL_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.md", "LICENSE*")


def fetch(
    place: str, raw: Path, options: dict[str, Any], *, kind: str, plugins: Sequence[str] = ()
) -> str:
    """Download a snapshot to ``raw``; a download that was cut off is continued.

    Args:
        place: ``owner/name@revision``.
        raw: where the folder goes.
        options: ``allow``: file patterns, default all (of models: no pickles); ``extract``:
            patterns of the archives to unpack, default none.
        kind: ``dataset`` or ``model``.

    Returns:
        The commit that the revision names.

    Raises:
        ConfigError: no revision, an unknown option, no such repository or revision.
        DataError: no access, no network, no matching file, an archive that is broken or unsafe.
    """
    if unknown := sorted(set(options) - {"allow", "extract"}):
        raise ConfigError(
            f"source_options of hub: no option {', '.join(unknown)}; there are: allow, extract"
        )
    if not (parts := PLACE.fullmatch(place)):
        raise ConfigError(
            f"source hub://{place}: write hub://owner/name@revision; the revision pins the data, "
            "take the commit from the repository's list of commits"
        )
    repo, revision = parts["repo"], parts["revision"]
    allow = options.get("allow") or (list(MODEL_FILES) if kind == "model" else None)
    commit, folder = _download(repo, revision, kind, allow, raw)
    folders.remove(folder / ".cache")
    if not list_files(folder):
        raise DataError(f"{repo}@{revision} has no file that matches {', '.join(allow or ['*'])}")
    (folder / UNPACKING).touch()
    extract_matching(folder, options.get("extract", []))
    (folder / UNPACKING).unlink()
    folders.install(folder, raw)
    return commit


def _download(
    repo: str, revision: str, kind: str, allow: list[str] | None, raw: Path
) -> tuple[str, Path]:
    """Download beside ``raw``; return commit and folder. Failures become messages to act on."""
    from huggingface_hub import HfApi, errors
    from huggingface_hub.utils import filter_repo_objects

    token = os.environ.get("HF_TOKEN") or False  # False: not the one stored by a login
    api = HfApi(token=token)
    where = f"{kind} {repo}"
    try:
        info = api.repo_info(repo, revision=revision, repo_type=kind)
        commit, files = info.sha, [sibling.rfilename for sibling in info.siblings]
        folder = folders.unfinished(raw, short_hash([repo, commit, allow]))
        if (folder / UNPACKING).exists():  # killed between files and their archive's removal
            folders.remove(folder)
            folder.mkdir()
        api.snapshot_download(
            repo, revision=commit, repo_type=kind, local_dir=folder, allow_patterns=allow
        )
    except errors.GatedRepoError:
        raise DataError(
            f"{where} is gated: accept its terms on its page, then {_token_advice(token)}"
        ) from None
    except errors.RevisionNotFoundError:
        raise ConfigError(f"{where} has no revision {revision!r}") from None
    except errors.RepositoryNotFoundError as error:
        raise _status_error(where, error.response.status_code, token, absent=True) from None
    except errors.HfHubHTTPError as error:
        raise _status_error(where, error.response.status_code, token) from None
    except (errors.LocalEntryNotFoundError, errors.HTTPError, ConnectionError) as error:
        raise DataError(
            f"cannot reach the hub for {where} ({type(error).__name__}): check the network and "
            "HF_ENDPOINT, or download it elsewhere and name it as folder:/path"
        ) from None
    expected = filter_repo_objects(files, allow_patterns=allow)
    if absent := [file for file in expected if not (folder / file).is_file()]:
        # the hub's library takes a folder cut off before for the whole when it cannot connect
        raise DataError(f"{where}: {len(absent)} files did not come, e.g. {absent[0]}: run again")
    return commit, folder


def _status_error(
    where: str, status: int, token: str | bool, *, absent: bool = False
) -> ConfigError | DataError:
    if status == 403:
        return DataError(f"the hub refuses access to {where} (403): {_token_advice(token)}")
    if status == 401:
        return DataError(
            f"{where}: the hub knows no such public repository, or it is private (401): check the "
            f"name, or {_token_advice(token)}"
        )
    if absent or status == 404:
        return ConfigError(f"{where} does not exist at the hub (404): check owner and name")
    return DataError(f"the hub answered {status} for {where}: try again later")


def _token_advice(token: str | bool) -> str:
    if token:
        return "see that the token in HF_TOKEN is valid and may read it"
    return "set HF_TOKEN to a token that may read it"
