"""Whether what DeepSpeed compiles for a preset that offloads can be compiled here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from shardline.checks import Check
from shardline.errors import ConfigError
from shardline.hardware import Hardware, load_hardware
from shardline.training.zero_config import offloads, read_json_config

PRESETS = Path("config/hardware")
NAME = "DeepSpeed offload"
SECONDS = 10  # patience with a compiler that is asked for its version


def offload_checks(presets: Path = PRESETS) -> list[Check]:
    """A check for the presets whose optimiser is offloaded; none if there is no such preset."""
    found = [preset for path in sorted(presets.glob("*.yaml")) if (preset := _offloading(path))]
    if not found:
        return []
    names = "preset " + ", ".join(preset.name for preset in found)
    missing, there = [], []
    for check in (compiler, ninja, *([nvcc] if any(p.device == "cuda" for p in found) else [])):
        place, advice = check()
        there += [place] if place else []
        missing += [advice] if advice else []
    if missing:
        return [Check(NAME, "missing", f"{names}: CPU Adam cannot be built", "; ".join(missing))]
    return [Check(NAME, "ok", f"{names}: {', '.join(there)}")]


def _offloading(path: Path) -> Hardware | None:
    """The preset, if it can be read and offloads; training names what is wrong with another."""
    try:
        preset = load_hardware(path)
        config = read_json_config(preset.deepspeed) if preset.deepspeed else {}
    except ConfigError:
        return None
    return preset if "optimizer" in offloads(config) else None


def compiler() -> tuple[str, str]:
    """The C++ compiler that torch would call, and what to do if there is none."""
    command = os.environ.get("CXX", "g++")
    if not shutil.which(command):
        return "", f"install a C++ compiler (no `{command}`): apt install g++, or set CXX"
    return f"{command} {_version(command, '-dumpfullversion')}".strip(), ""


def ninja() -> tuple[str, str]:
    """Ninja, and what to do if there is none."""
    place = shutil.which("ninja")
    return (f"ninja {_version(place, '--version')}", "") if place else ("", "pip install ninja")


def nvcc() -> tuple[str, str]:
    """CUDA's compiler, where torch looks for it, and what to do if there is none."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if not home:
        place = shutil.which("nvcc")
        home = str(Path(place).parent.parent) if place else "/usr/local/cuda"
    command = Path(home) / "bin/nvcc"
    if not command.is_file():
        return "", f"set CUDA_HOME to a CUDA toolkit (no {command})"
    return f"CUDA {_version(str(command), '--version')} in {home}", ""


def _version(command: str, option: str) -> str:
    """The last number with a point that a program says of itself; "" if it says none."""
    try:
        said = subprocess.run(
            [command, option],
            check=False,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            errors="replace",
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    found = re.findall(r"(?<![\w.])V?(\d+(?:\.\d+)+)", said)
    return found[-1] if found else ""
