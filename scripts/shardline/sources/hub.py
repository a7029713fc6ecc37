"""``hub://owner/name@revision``: a snapshot of a dataset or model of the Hugging Face Hub.

``source_options`` say which files: ``allow`` a list of patterns, ``split`` the folder of a split
(or what the hub would take for one), ``data_files`` subsets or patterns within it. Whatever is
given must hold. ``extract`` unpacks matching zip and tar archives, also those in parts, where they
lie. Models are taken without weights that are pickles unless ``pickles: true`` or ``allow`` names
them.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from shardline import folders
from shardline.archives import extract_matching, limits_of
from shardline.errors import ConfigError, DataError
from shardline.files import short_hash
from shardline.hub_client import COMMIT, HubFile, Repository
from shardline.locks import Known

REMOTE = True
PLACE = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)@(?P<revision>[\w./-]+)")
OPTIONS = ("allow", "split", "data_files", "extract", "extract_limits", "pickles")
MODEL_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.md", "LICENSE*")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
PARTS = ".parts"
UNPACKING = ".unpacking"
THREADS = 8
SECONDS = 10  # between two lines of progress


def fetch(
    place: str, raw: Path, options: dict[str, Any], *, kind: str, plugins: Sequence[str] = ()
) -> str:
    """Download a snapshot to ``raw``; a download that was cut off is continued.

    Args:
        place: ``owner/name@revision``.
        raw: where the folder goes.
        options: see above; default: all files, of models no pickles.
        kind: ``dataset`` or ``model``.

    Returns:
        The commit that the revision names.

    Raises:
        ConfigError: no revision, a wrong option, no such repository, revision, split or subset.
        DataError: no access, no network, a file that is not what the hub states, no matching file,
            an archive that is broken or unsafe.
    """
    repo, revision = _parse(place, options)
    limits = limits_of(options)
    repository = Repository(repo, kind)
    commit, files = repository.files(revision)
    chosen = choose(files, options, kind, f"{repo}@{revision}")
    if not COMMIT.fullmatch(revision):
        print(
            f"{revision!r} is no commit but a name that may move; it is held at {commit}: better "
            f"write hub://{repo}@{commit}",
            file=sys.stderr,
        )
    folder = folders.unfinished(raw, short_hash([repo, commit, sorted(chosen)]))
    if (folder / UNPACKING).exists():  # killed while unpacking: what came is good
        folders.keep_only(folder, chosen)
    _download(repository, commit, chosen, folder)
    (folder / UNPACKING).touch()
    extract_matching(folder, options.get("extract", []), limits)
    (folder / UNPACKING).unlink()
    folders.install(folder, raw)
    return commit


def confirm(place: str, options: dict[str, Any], known: Known, *, kind: str) -> None:
    """See that the hub still has what was locked; a hub that cannot be asked is only named.

    Raises:
        ConfigError: the revision is another commit now.
        DataError: a file of the commit is another one now.
    """
    repo, revision = _parse(place, options)
    try:
        commit, files = Repository(repo, kind).files(revision)
    except DataError as error:
        print(f"kept what is locked: {error}", file=sys.stderr)
        return
    if commit != known.revision:
        raise ConfigError(
            f"{revision!r} was commit {known.revision} when it was locked and is {commit} now: "
            f"write hub://{repo}@{known.revision} or hub://{repo}@{commit}"
        )
    for path, (_, _, sha256) in known.files.items():
        stated = files[path].sha256 if path in files else ""
        if stated and stated != sha256:
            raise DataError(
                f"{path} was locked with sha256 {sha256}, the hub states {stated} for the same "
                f"commit {commit}: find out why before you use either"
            )


def _parse(place: str, options: dict[str, Any]) -> tuple[str, str]:
    if unknown := sorted(set(options) - set(OPTIONS)):
        raise ConfigError(
            f"source_options of hub: no option {', '.join(unknown)}; there are: "
            f"{', '.join(OPTIONS)}"
        )
    if not (parts := PLACE.fullmatch(place)):
        raise ConfigError(
            f"source hub://{place}: write hub://owner/name@revision; the revision pins the data, "
            "take the commit from the repository's list of commits"
        )
    return parts["repo"], parts["revision"]


def choose(
    files: dict[str, HubFile], options: dict[str, Any], kind: str, where: str
) -> dict[str, HubFile]:
    """The files that the options take.

    Raises:
        ConfigError: a split or subset that is not there, or a path that leads elsewhere.
        DataError: nothing is left.
    """
    allow = options.get("allow")
    if kind == "model" and not allow:
        allow = [*MODEL_FILES, *(PICKLES if options.get("pickles") else ())]
    chosen = [path for path in files if not allow or _matches(path, allow)]
    if split := options.get("split"):
        chosen = _of_split(chosen, split, where)
    subsets = options.get("data_files", [])
    if isinstance(subsets, dict):
        subsets = [
            pattern
            for value in subsets.values()
            for pattern in ([value] if isinstance(value, str) else value)
        ]
    if subsets:
        chosen = _of_subsets(chosen, [subsets] if isinstance(subsets, str) else subsets, where)
    for path in chosen:
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise DataError(f"{where}: {path!r} would be written outside its folder")
    if not chosen:
        raise DataError(f"{where} has no file that matches {', '.join(allow or ['*'])}")
    return {path: files[path] for path in chosen}


def _of_split(paths: list[str], split: str, where: str) -> list[str]:
    """Files in the folder of a split or, where there is none, with its name in theirs."""
    if inside := [path for path in paths if path.startswith(f"{split}/")]:
        return inside
    word = re.compile(rf"(^|[/._-]){re.escape(split)}([/._-]|$)")
    if named := [path for path in paths if word.search(path)]:
        return named
    there = sorted({path.split("/")[0] for path in paths if "/" in path})
    raise ConfigError(f"{where} has no split {split!r}; its folders are: {', '.join(there)}")


def _of_subsets(paths: list[str], subsets: list[str], where: str) -> list[str]:
    taken: set[str] = set()
    for subset in subsets:
        pattern = subset if re.search(r"[*?./\[]", subset) else f"{subset}/*"
        found = {path for path in paths if fnmatch(path, pattern) or fnmatch(path, f"*/{pattern}")}
        if not found:
            there = sorted({str(PurePosixPath(path).parent) for path in paths})
            raise ConfigError(
                f"{where} has no data files {subset!r}; its folders are: {', '.join(there)}"
            )
        taken |= found
    return [path for path in paths if path in taken]


def _matches(path: str, patterns: Iterable[str]) -> bool:
    """As the hub's library does it: ``*`` stands for folders too, ``folder/`` for what is in it."""
    return any(
        fnmatch(path, f"{pattern}*" if pattern.endswith("/") else pattern) for pattern in patterns
    )


def _download(repository: Repository, commit: str, files: dict[str, HubFile], folder: Path) -> None:
    """Fetch what is not there yet; a file has its name only when its hash was right."""
    parts = folder / PARTS
    parts.mkdir(exist_ok=True)
    done = [path for path in files if (folder / path).is_file()]
    missing = sorted(set(files) - set(done))
    count, total = len(done), sum(entry.bytes for entry in files.values())
    size, said = sum(files[path].bytes for path in done), time.monotonic()
    with ThreadPoolExecutor(THREADS) as pool:
        jobs = {
            pool.submit(
                repository.download,
                *(commit, path, files[path], folder / path, parts / short_hash(path, 32)),
            ): path
            for path in missing
        }
        try:
            for job in as_completed(jobs):
                job.result()
                count, size = count + 1, size + files[jobs[job]].bytes
                if time.monotonic() - said >= SECONDS:
                    said = time.monotonic()
                    print(f"{count:,} of {len(files):,} files, {size:,} of {total:,} bytes")
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    folders.remove(parts)
