"""What surrounds the project on a machine: packages, tools, the hub's settings, git, Slurm."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

from shardline.checks import Check
from shardline.redact import redact_text
from shardline.reporting.numbers import plural

LOCK = Path("envs/requirements.lock")
OLDEST_PYTHON = (3, 11)
NEEDED = (
    *("accelerate", "jinja2", "mlflow", "numpy", "peft", "pillow", "pyarrow", "pydantic", "pyyaml"),
    *("safetensors", "snakemake", "tokenizers", "torch", "transformers", "zstandard"),
)
MOST_NAMED = 10  # differing packages in one line
SECONDS = 10  # patience with git and sbatch
TOKEN = "HF_TOKEN"
OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
_PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;\\]+)\s*(?:;\s*([^\\]+?))?\s*\\?$")


def environment_checks() -> list[Check]:
    """All checks of the environment."""
    checks = [python(), packages(LOCK)]
    checks += [hub_token(), hub_home(), *hub_address(), *proxies(), offline()]
    return [
        *checks,
        *tracking(),
        program("dot", "Graphviz", "draws `snakemake --dag`"),
        git(),
        slurm(),
    ]


def python() -> Check:
    """The interpreter's version."""
    found = f"{sys.version.split()[0]} ({sys.executable})"
    if sys.version_info < OLDEST_PYTHON:
        return Check("Python", "missing", found, "install Python 3.11 or newer", True)
    return Check("Python", "ok", found)


def packages(lock: Path) -> Check:
    """Installed packages against the versions of the lock."""
    name = "packages"
    if not lock.is_file():
        return Check(name, "missing", f"no {lock} to compare with", "git checkout envs", True)
    pinned = read_pins(lock.read_text(encoding="utf-8"))
    installed = installed_versions()
    absent = [package for package in pinned if package not in installed]
    other = [
        f"{package} {installed[package]} (lock: {version})"
        for package, version in pinned.items()
        if package in installed and not same_version(installed[package], version)
    ]
    found = f"{len(pinned) - len(absent) - len(other)} of {len(pinned)} as in {lock}"
    named = [*(f"{package} is not installed" for package in absent), *other]
    if not named:
        return Check(name, "ok", found)
    rest = [f"and {len(named) - MOST_NAMED} more"] if len(named) > MOST_NAMED else []
    found = "; ".join([found, *named[:MOST_NAMED], *rest])
    advice = "make a clean environment: rm -r .venv && make test"
    unusable = bool(set(absent) & set(NEEDED))
    return Check(name, "missing" if absent else "warn", found, advice, unusable)


def read_pins(text: str) -> dict[str, str]:
    """``{normalised name: version}`` of the lock's packages that this platform needs."""
    from packaging.markers import Marker
    from packaging.utils import canonicalize_name

    pins = {}
    for line in text.splitlines():
        if match := _PIN.match(line):
            package, version, marker = match.groups()
            if marker is None or Marker(marker).evaluate():
                pins[canonicalize_name(package)] = version
    return pins


def installed_versions() -> dict[str, str]:
    """``{normalised name: version}`` of what this interpreter can import."""
    from packaging.utils import canonicalize_name

    found: dict[str, str] = {}
    for distribution in distributions():
        if package := distribution.metadata["Name"]:
            found.setdefault(canonicalize_name(package), distribution.version)
    return found


def same_version(installed: str, pinned: str) -> bool:
    """Whether two versions are equal; a build's suffix (``+cu130``) matters only if pinned."""
    return installed == pinned or ("+" not in pinned and installed.partition("+")[0] == pinned)


def hub_home() -> Check:
    """Where the hub's downloads are kept."""
    home = _hub_folder()
    return Check("HF_HOME", "ok", f"{home}{'' if os.environ.get('HF_HOME') else ' (default)'}")


def _hub_folder() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("HF_HOME") or f"{cache}/huggingface").expanduser()


def hub_token() -> Check:
    """Whether there is a token for the hub; its value is never read out."""
    name = "HF token"
    if os.environ.get(TOKEN):
        return Check(name, "ok", f"set by {TOKEN}")
    file = Path(os.environ.get("HF_TOKEN_PATH") or _hub_folder() / "token").expanduser()
    if file.is_file() and file.stat().st_size:
        advice = f"only the environment is read: export {TOKEN}=$(cat {file})"
        return Check(name, "warn", f"in {file}", advice)
    return Check(name, "missing", "none", f"only gated or private data needs it: export {TOKEN}=…")


def hub_address() -> list[Check]:
    """The hub's address if it is not the public one."""
    address = os.environ.get("HF_ENDPOINT")
    return [Check("HF_ENDPOINT", "ok", without_credentials(address))] if address else []


def proxies() -> list[Check]:
    """The proxies that downloads go through."""
    found = []
    for variable in PROXY_VARIABLES:
        for name in (variable, variable.lower()):
            if value := os.environ.get(name):
                found.append(Check(name, "ok", without_credentials(value)))
    return found


def without_credentials(address: str) -> str:
    """An address without user and password, whatever characters these are made of."""
    scheme, slashes, rest = address.rpartition("://")
    return redact_text(f"{scheme}{slashes}{rest.rpartition('@')[2]}")


def offline() -> Check:
    """Whether the hub's libraries are told to stay off the network."""
    flags = [name for name in OFFLINE_VARIABLES if _is_true(os.environ.get(name, ""))]
    if flags:
        advice = f"unset {' '.join(flags)} to fetch data and models"
        return Check("network", "warn", f"switched off by {', '.join(flags)}", advice)
    return Check("network", "ok", "not switched off")


def _is_true(value: str) -> bool:
    return value.strip().upper() in {"1", "ON", "YES", "TRUE"}


def tracking() -> list[Check]:
    """The tracking server that replaces the config's, if one is set."""
    address = os.environ.get("MLFLOW_TRACKING_URI")
    if not address:
        return []
    return [Check("MLflow", "ok", f"{without_credentials(address)} (MLFLOW_TRACKING_URI)")]


def program(command: str, name: str, use: str) -> Check:
    """Whether a program can be found."""
    if place := shutil.which(command):
        return Check(name, "ok", place)
    return Check(name, "missing", f"no `{command}`", f"apt install {name.lower()}; it {use}")


def git() -> Check:
    """The commit, and whether files differ from it."""
    if not shutil.which("git"):
        return Check("git", "missing", "no `git`", "apt install git; reports name the commit")
    commit = _output("git", "rev-parse", "--short=12", "HEAD")
    if commit is None:
        return Check("git", "warn", "no commit here", "git init, git add, git commit")
    changed = (_output("git", "status", "--porcelain") or "").splitlines()
    if changed:
        found = f"{commit}, {plural(len(changed), 'file')} not committed"
        return Check("git", "warn", found, "commit, so that a result can be traced to its code")
    return Check("git", "ok", f"{commit}, clean")


def slurm() -> Check:
    """Whether jobs can be submitted to Slurm from here."""
    if not shutil.which("sbatch"):
        return Check("Slurm", "missing", "no `sbatch`", "only the profiles slurm_* need it")
    return Check("Slurm", "ok", _output("sbatch", "--version") or "sbatch is there")


def _output(*words: str) -> str | None:
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, check=True, timeout=SECONDS, errors="replace"
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
