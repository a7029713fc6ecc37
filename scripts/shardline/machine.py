"""The machine that work would run on: processors, memory, disk, limits, GPUs."""

from __future__ import annotations

import fcntl
import os
import resource
import shutil
from pathlib import Path

from shardline.checks import Check
from shardline.reporting.numbers import plural, size
from shardline.tracking.interface import DEFAULT_PORT, next_free_port, port_is_free

GIB = 2**30
LEAST_MEMORY = 4 * GIB  # what `make demo` needs
LEAST_DISK = 20 * GIB
LEAST_FILES = 4096  # a loader with 8 workers over some hundred shards
LEAST_SHARED = 1 * GIB  # loader workers hand batches over in /dev/shm; containers often get 64 MB


def machine_checks(results: Path, gpu: bool) -> list[Check]:
    """All checks of the machine.

    Args:
        results: the project's folder of results; it may be a link or not be there yet.
        gpu: import torch and look at the GPUs even if there is no GPU device file.
    """
    checks = [processors(), memory(), shared_memory(), file_limit()]
    checks += gpus() if gpu or gpu_devices() else [_no_gpu()]
    return [*checks, *disk(results), port(DEFAULT_PORT)]


def processors() -> Check:
    """Cores that this process may use: affinity and the container's quota."""
    cores = len(os.sched_getaffinity(0))
    quota = _cgroup("cpu.max").split()
    if quota and quota[0].isdigit():
        share = int(quota[0]) / int(quota[1])
        if share < cores:
            return Check("CPU", "ok", f"{share:g} cores (a container's share of {cores})")
    return Check("CPU", "ok", plural(cores, "core"))


def memory() -> Check:
    """Memory in total and available, within the container's limit."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    free = _meminfo("MemAvailable") or total
    limit, used = _cgroup("memory.max"), _cgroup("memory.current")
    if limit.isdigit() and int(limit) < total:
        total = int(limit)
        free = min(free, total - int(used or 0))
    found = f"{size(total)}, {size(free)} free"
    if free < LEAST_MEMORY:
        return Check("memory", "warn", found, "the demo takes 4 GB: close other programs first")
    return Check("memory", "ok", found)


def shared_memory() -> Check:
    """Room in /dev/shm."""
    try:
        total = shutil.disk_usage("/dev/shm").total
    except OSError:
        return Check("shared memory", "warn", "no /dev/shm", "set workers: 0 in the preset")
    if total < LEAST_SHARED:
        advice = "loader workers may crash: start the container with --ipc=host or --shm-size=8g"
        return Check("shared memory", "warn", size(total), advice)
    return Check("shared memory", "ok", size(total))


def file_limit() -> Check:
    """How many files a process may have open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    name = "open files"
    most = "any number" if hard == resource.RLIM_INFINITY else f"{hard:,}"
    if soft != resource.RLIM_INFINITY and soft < LEAST_FILES:
        advice = f"ulimit -n {65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)}"
        return Check(name, "warn", f"{soft:,}, may be raised to {most}", advice)
    found = "any number" if soft == resource.RLIM_INFINITY else f"{soft:,}"
    return Check(name, "ok", f"{found} a process")


def disk(results: Path) -> list[Check]:
    """Where results lie, the room there, and whether that file system has locks."""
    if results.is_symlink() and not results.is_dir():
        target = os.readlink(results)
        advice = f"mkdir -p {target}, or mount its disk"
        return [
            Check("results", "missing", f"a link to {target}, which is no folder", advice, True)
        ]
    if results.is_symlink():
        found = f"a link to {results.resolve()}"
    else:
        found = "a folder here" if results.is_dir() else "not there yet; the first run makes it"
    place = results if results.is_dir() else Path()
    if not os.access(place, os.W_OK):
        advice = f"chown or chmod {place.resolve()}, or make results a link to another disk"
        return [Check("results", "missing", f"{found}, not writable", advice, True)]
    checks = [Check("results", "ok", found)]
    free = shutil.disk_usage(place).free
    short = "less than 20 GB: make results a link to a larger disk; `shardline gc` finds waste"
    enough = free >= LEAST_DISK
    checks.append(
        Check("disk", "ok" if enough else "warn", f"{size(free)} free", "" if enough else short)
    )
    if not _has_locks(place):
        advice = "trainings need file locks there: put results on another file system"
        checks.append(Check("file locks", "missing", "none at results", advice, True))
    return checks


def _has_locks(folder: Path) -> bool:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def port(number: int) -> Check:
    """Whether MLflow's page can be served on its usual port."""
    name = "MLflow port"
    if port_is_free(number):
        return Check(name, "ok", f"{number} is free")
    advice = f"shardline mlflow --port {next_free_port(number + 1)}"
    return Check(name, "warn", f"{number} is taken", advice)


def gpu_devices() -> list[Path]:
    """The device files of NVIDIA and AMD GPUs."""
    return sorted([*Path("/dev").glob("nvidia[0-9]*"), *Path("/dev").glob("kfd")])


def _no_gpu() -> Check:
    return Check("GPU", "missing", "no device", "only the profile `local` can train here")


def gpus() -> list[Check]:
    """The GPUs that torch can use, their driver, and the NCCL that connects them."""
    import torch

    if not torch.cuda.is_available():
        if not gpu_devices():
            return [_no_gpu()]
        found = f"a device, but torch {torch.__version__} (CUDA {torch.version.cuda}) cannot use it"
        advice = f"check the driver ({_driver()}) with nvidia-smi, and CUDA_VISIBLE_DEVICES"
        return [Check("GPU", "warn", found, advice)]
    checks = []
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        advice = "another program holds memory on it: see nvidia-smi" if free < 0.9 * total else ""
        found = f"{facts.name}, {size(total)}, {size(free)} free, sm_{facts.major}{facts.minor}"
        if facts.major < 8:
            advice = "no bf16: set precision: fp32 in the recipe's stages, or use a newer GPU"
        checks.append(Check(f"GPU {index}", "warn" if advice else "ok", found, advice))
    nccl = (
        ".".join(map(str, torch.cuda.nccl.version()))
        if torch.distributed.is_nccl_available()
        else ""
    )
    found = f"{_driver()}, CUDA {torch.version.cuda} in torch {torch.__version__}"
    checks.append(Check("GPU driver", "ok", found))
    several = len(checks) > 2
    advice = "trainings on several GPUs need a torch with NCCL"
    if nccl:
        checks.append(Check("NCCL", "ok", nccl))
    elif several:
        checks.append(Check("NCCL", "missing", "not in this torch", advice))
    return checks


def _driver() -> str:
    try:
        words = Path("/proc/driver/nvidia/version").read_text().split("\n")[0].split()
    except OSError:
        return "driver unknown"
    number = next((word for word in words if word[:1].isdigit() and "." in word), "unknown")
    return f"driver {number}"


def _meminfo(key: str) -> int:
    """A line of /proc/meminfo in bytes; 0 where there is none."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:")), 0)


def _cgroup(name: str) -> str:
    """A value of this process's control group (version 2); "" where there is none."""
    try:
        group = Path("/proc/self/cgroup").read_text().splitlines()[0].rpartition(":")[2]
        for folder in (Path("/sys/fs/cgroup") / group.lstrip("/"), Path("/sys/fs/cgroup")):
            if (folder / name).is_file():
                return (folder / name).read_text().strip()
    except (OSError, IndexError):
        pass
    return ""
