"""What the numbers were measured on: memory of this process, the machine, library versions. Imports no torch."""

from __future__ import annotations

import ctypes
import gc
import itertools
import math
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path

MIB = 1024 * 1024
MEASURED_LIBRARIES = ("torch", "transformers", "bitsandbytes", "torchao", "peft")


def _said(file: str | Path, key: str) -> str | None:
    """Return what stands behind a key in a file of /proc; None where there is no such file or key."""
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), None)


def _status_mib(key: str) -> float:
    """Return one kB figure of this process as MiB; 0 where the platform has no such file."""
    return int((_said("/proc/self/status", f"{key}:") or "0").split()[0]) / 1024


def rss_mib() -> float:
    """Resident memory of this process now."""
    return _status_mib("VmRSS")


def anonymous_mib() -> float:
    """Resident memory of this process that is no page of a file, such as a mapped checkpoint."""
    return _status_mib("RssAnon")


def peak_rss_mib() -> float:
    """Highest resident memory of this process since the start or the last `reset_peak`."""
    if peak := _status_mib("VmHWM"):
        return peak
    import resource  # macOS: bytes since the start of the process, never reset

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MIB


def reset_peak() -> bool:
    """Give freed memory back and start the high-water mark anew; False where the kernel does not allow it."""
    gc.collect()
    return trim() and restart_peak()


def trim() -> bool:
    """Give freed memory back to the system; False where there is no glibc to do it, and no /proc either."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        return False
    return True


def restart_peak() -> bool:
    """Start the high-water mark anew from what is held now; False where the kernel does not allow it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def describe() -> dict[str, str]:
    """Name what a measurement depends on: CPU, cores, memory, GPUs."""
    return {
        "cpu": _cpu_model(),
        "cores": str(cores()),
        "memory_gib": str(round(_total_memory_bytes() / 1024**3)),
        "gpus": ", ".join(gpu_models()) or "none",
    }


def name() -> str:
    """Name the kind of machine on one line: numbers from two kinds are not compared."""
    it = describe()
    return f"{it['cpu']}, {it['cores']} cores, {it['memory_gib']} GiB, GPUs: {it['gpus']}"


EXCLUSIVE = "alone"  # in a process of its own, and nothing else of note ran on the machine
OTHERS_CORES = 0.5  # what other programs may take of the machine while something is measured
_measurements = itertools.count()  # of this process


class Contention:
    """What else uses this process and this machine while something is measured, from now on."""

    def __init__(self) -> None:
        self.earlier = next(_measurements)  # they leave memory behind, and peaks show it
        self.started, self.others_s = time.monotonic(), _others_s()

    def describe(self) -> str:
        """Say what there was beside it so far, or that it was alone."""
        return self.beside() or (
            f"in a process that had done {self.earlier} jobs before" if self.earlier else EXCLUSIVE
        )

    def beside(self) -> str:
        """Say what other programs took meanwhile; empty where that was too little to matter."""
        passed, others_s = time.monotonic() - self.started, _others_s() - self.others_s
        if others_s <= OTHERS_CORES * passed + 0.1:  # the kernel counts in steps of 10 ms
            return ""
        return f"beside other work on {others_s / max(passed, 0.01):.1f} of {os.cpu_count()} cores"


def _others_s() -> float:
    """Seconds of this machine's cores that processes have taken which are not this one or below it; 0 if unknown."""
    try:
        ticks = [int(number) for number in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    except (OSError, ValueError):
        return 0.0
    user, nice, system, _, _, irq, softirq, *_ = ticks
    return (user + nice + system + irq + softirq - _family_ticks()) / os.sysconf("SC_CLK_TCK")


def _family_ticks() -> int:
    """CPU time of this process and of all that it has started."""
    of: dict[int, tuple[int, int]] = {}  # process -> its parent, and its time with that of its ended children
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = file.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        of[int(file.parent.name)] = int(fields[1]), sum(map(int, fields[11:15]))
    family, grown = {os.getpid()}, True
    while grown:
        more = {process for process, (parent, _) in of.items() if parent in family} - family
        family, grown = family | more, bool(more)
    return sum(of[process][1] for process in family if process in of)


@cache
def git_state() -> dict[str, str]:
    """Name the commit of the working directory and whether it has changes; nothing outside a repository."""
    try:
        commit = _git("rev-parse", "HEAD")
        return {"git.commit": commit, "git.dirty": str(bool(_git("status", "--porcelain"))).lower()}
    except (OSError, subprocess.SubprocessError):
        return {}


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


def cores() -> int:
    """CPU cores that this process may use: those that it may run on, or its container's share of time if less."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([there, *map(math.ceil, cgroup_cpu_shares())]))


# Below this, handing work to a second thread costs more than it saves; beside other busy processes, where one
# thread waits for the other at every layer, it costs a hundred times more.
ONE_THREAD_BELOW_PARAMETERS = 50_000_000
QUANTIZED_FLAGS = {"avx512_bf16", "avx512_vnni", "avx512bw", "avx512vl"}


def c_compiler() -> str | None:
    """Return the C compiler that the engine's kernels are built with; None where there is none, or RUNNER_NATIVE=0."""
    return None if os.environ.get("RUNNER_NATIVE") == "0" else shutil.which(os.environ.get("CC", "cc"))


def has_quantized_kernels() -> bool:
    """Whether kernels/quantized.h can be built and run here: it multiplies bfloat16 and bytes by AVX512."""
    flags = set((_said("/proc/cpuinfo", "flags") or "").split())
    return c_compiler() is not None and flags >= QUANTIZED_FLAGS


def threads_for(parameters: int) -> int:
    """Return how many CPU threads suit a model of this size; a rule, not a race, so that answers stay the same."""
    return 1 if parameters < ONE_THREAD_BELOW_PARAMETERS else cores()


def versions() -> dict[str, str]:
    """Versions of the libraries that speed and memory depend on, read without importing them."""
    found = {"python": platform.python_version()}
    for name in MEASURED_LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _cpu_model(file: str | Path = "/proc/cpuinfo") -> str:
    """Name the processor; a machine in a cloud may say no more than its maker, where generations differ by half."""
    name = _said(file, "model name") or platform.processor() or platform.machine()
    family, model = _said(file, "cpu family"), _said(file, "model\t")
    return f"{name} (family {family} model {model})" if family and model else name


def _total_memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def available_mib() -> float:
    """Memory that new processes can take without pushing others out: the machine's, or this container's if less."""
    free = _said("/proc/meminfo", "MemAvailable:")
    if free is None:
        return _total_memory_bytes() / MIB / 2
    return min([int(free.split()[0]) / 1024, *cgroup_rooms_mib()])


FIRST_CACHED = ("total_active_file", "total_inactive_file")
SECOND_CACHED = ("active_file", "inactive_file", "slab_reclaimable")
CGROUP = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")  # which groups this process is in; where they are described


def cgroup_rooms_mib(own: Path = CGROUP[0], root: Path = CGROUP[1]) -> list[float]:
    """What each control group around this process has left below its memory limit.

    Cached files can be dropped, but not those that are mapped: a checkpoint would be read from the disk at each pass.
    Beyond memory.max the kernel kills, beyond memory.high it makes processes wait.
    """
    rooms = []
    for folder, is_first in _cgroups("memory", own, root):
        limit_files, used_file, cached_names, mapped_name = (
            (("memory.limit_in_bytes",), "memory.usage_in_bytes", FIRST_CACHED, "total_mapped_file")
            if is_first
            else (("memory.max", "memory.high"), "memory.current", SECOND_CACHED, "file_mapped")
        )
        limits = [int(limit) for name in limit_files if (limit := _text(folder / name)).isdigit()]
        used = _text(folder / used_file)
        if not limits or not used:
            continue  # no limit here, or the container does not show it
        stat = dict(line.split() for line in _text(folder / "memory.stat").splitlines())
        cached = sum(int(stat.get(name, 0)) for name in cached_names)
        unmapped = max(0, cached - int(stat.get(mapped_name, 0)))
        rooms.append(max(0.0, (min(limits) - int(used) + unmapped) / MIB))
    return rooms


def _text(file: Path) -> str:
    """Return what a small file says; empty where there is none."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def cgroup_cpu_shares(own: Path = CGROUP[0], root: Path = CGROUP[1]) -> list[float]:
    """How many CPUs' time each control group around this process may use, of those that limit it."""
    shares = []
    for folder, is_first in _cgroups("cpu", own, root):
        files = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if is_first else ("cpu.max",)
        try:
            quota, period = " ".join((folder / name).read_text().strip() for name in files).split()
        except (OSError, ValueError):
            continue  # no limit here, or the container does not show it
        if quota.isdigit() and int(quota):  # else it is "max", or -1
            shares.append(int(quota) / int(period))
    return shares


def _cgroups(controller: str, own: Path, root: Path) -> Iterator[tuple[Path, bool]]:
    """Yield the folders of the control groups around this process, and whether they are of the first version."""
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return
    for _, controllers, path in lines:
        if controllers and controller not in controllers.split(","):
            continue
        base = root / controller if controllers else root  # version 2 has one tree for all controllers
        group = base / path.lstrip("/")
        for folder in (group, *(parent for parent in group.parents if parent.is_relative_to(base))):
            yield folder, bool(controllers)


def keep_kernels(count: int) -> None:
    """Limit how many kernels oneDNN and torch's layer above it keep; each reads it once, at the first product."""
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, str(count))


def device_class(device: str) -> str:
    """Return cpu or cuda: where model.device leads on this machine, as far as can be told without torch."""
    if device != "auto":
        return device.partition(":")[0]
    has_cuda = bool(gpu_models()) and "+cpu" not in versions()["torch"]
    return "cuda" if has_cuda else "cpu"


def gpu_models() -> list[str]:
    """Names of the GPUs that this process may use, from the driver's files: no library has to be imported."""
    files = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    models = [model for file in files if (model := _said(file, "Model"))]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return models if visible is None else models[: len([name for name in visible.split(",") if name.strip()])]
