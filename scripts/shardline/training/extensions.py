"""What DeepSpeed compiles when it is first used: where it goes, and one process at a time."""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
from pathlib import Path

from shardline.errors import ConfigError
from shardline.hardware import Hardware
from shardline.training.zero_config import offloads, read_json_config

FOLDER = "TORCH_EXTENSIONS_DIR"


def prepare(hardware: Hardware) -> None:
    """Set DeepSpeed up for this process, and build the optimiser that a preset offloads.

    To be called before DeepSpeed is imported.

    Raises:
        ConfigError: the preset offloads, and the optimiser cannot be built.
    """
    own = FOLDER not in os.environ
    if own:
        os.environ[FOLDER] = str(node_folder())
    if hardware.device == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
        import deepspeed.ops

        # Two minutes of g++ for a faster all-reduce between CPU ranks, which gloo does too.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if "optimizer" in offloads(read_json_config(hardware.deepspeed)):
        _build(Path(os.environ[FOLDER]), own)


def node_folder() -> Path:
    """A folder of this user's alone on the node's own disk, made if it is not there.

    Raises:
        ConfigError: it belongs to another user, or others may write to it.
    """
    version = f"py{sys.version_info.major}{sys.version_info.minor}"
    parent = Path(tempfile.gettempdir()) / f"shardline-{os.getuid()}"
    parent.mkdir(mode=0o700, exist_ok=True)
    facts = parent.lstat()
    if parent.is_symlink() or facts.st_uid != os.getuid() or facts.st_mode & 0o022:
        raise ConfigError(
            f"{FOLDER}: {parent} is not a folder that this user alone can write to, and code built "
            f"there would be run; remove it, or set {FOLDER} to another folder"
        )
    folder = parent / "torch_extensions" / version
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _build(folder: Path, own: bool) -> None:
    """Build and load DeepSpeed's CPU Adam, one process of this node after the other."""
    from deepspeed.ops.op_builder import CPUAdamBuilder

    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "building", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if own:
            # Left by a build that was killed: torch would wait for it for ever.
            for left in folder.glob("**/lock"):
                left.unlink()
        try:
            CPUAdamBuilder().load()
        except Exception as error:  # a compiler's, CUDA's or torch's own
            raise ConfigError(
                "deepspeed: offload_optimizer needs DeepSpeed's CPU Adam, which cannot be built: "
                f"{' '.join(str(error).split())[:300]}; see `shardline doctor`, or use a DeepSpeed "
                "JSON without offload"
            ) from error
