"""What numbers are measured on: memory of this process, the machine, library versions. Imports no
torch."""

from __future__ import annotations

import ctypes
import gc
import itertools
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

from runner_base import processor, visible_gpus
from runner_base.texts import counted

MIB = 1024 * 1024
MEASURED_LIBRARIES = ("torch", "transformers", "bitsandbytes", "torchao", "peft")


def _status_mib(key: str) -> float:
    """Return one kB figure of this process as MiB; 0 where the platform has no such file."""
    return int((processor.value_of("/proc/self/status", f"{key}:") or "0").split()[0]) / 1024


def rss_mib() -> float:
    """Resident memory of this process now; 0 if the system does not say, which is then not
    recorded."""
    return _status_mib("VmRSS")


def anonymous_mib() -> float:
    """Resident memory of this process without pages of files, such as a mapped checkpoint."""
    return _status_mib("RssAnon")


def peak_rss_mib() -> float:
    """Highest resident memory of this process since the start or the last `reset_peak`."""
    if peak := _status_mib("VmHWM"):
        return peak
    import resource  # without /proc: since the start of the process, never reset

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (MIB if sys.platform == "darwin" else 1024)


def reset_peak() -> bool:
    """Give freed memory back and reset the high-water mark; False if the kernel does not allow
    it."""
    gc.collect()
    return trim() and restart_peak()


def trim() -> bool:
    """Give freed memory back to the system; False without glibc."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        return False
    return True


def restart_peak() -> bool:
    """Reset the high-water mark to the present memory; False if the kernel does not allow it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def describe() -> dict[str, str]:
    """Return what a measurement depends on: CPU, cores, memory, GPUs."""
    return {
        "cpu": _cpu_model(),
        "cores": str(cores()),
        "memory_gib": str(round(_total_memory_bytes() / 1024**3)),
        "gpus": ", ".join(gpu_models()) or "none",
    }


def name() -> str:
    """Describe the kind of machine on one line; numbers from two kinds are not compared."""
    described = describe()
    return f"{described['cpu']}, {described['cores']} cores, {described['memory_gib']} GiB, GPUs: {described['gpus']}"


EXCLUSIVE = "alone"  # in its own process, with no notable load from other programs
BESIDE = "beside other work"
OTHERS_CORES = 0.5  # the load by other programs that a measurement tolerates
_measurements = itertools.count()  # of this process


class Contention:
    """What else has used this process and this machine since a measurement began."""

    def __init__(self, of_a_job: bool = True) -> None:
        # earlier jobs leave memory behind, which raises peaks
        self.earlier = next(_measurements) if of_a_job else 0
        self.started, self.others_s = time.monotonic(), _others_s()

    def describe(self) -> str:
        """Describe the other load so far, or say that there was none."""
        earlier = f"in a process that had done {counted(self.earlier, 'job')} before"
        return self.beside() or (earlier if self.earlier else EXCLUSIVE)

    def beside(self) -> str:
        """Describe the load by other programs so far; empty if it was too little to matter."""
        passed, others_s = time.monotonic() - self.started, _others_s() - self.others_s
        if others_s <= OTHERS_CORES * passed + 0.1:  # the kernel counts in steps of 10 ms
            return ""
        return f"{BESIDE} that used {others_s / max(passed, 0.01):.1f} of {os.cpu_count()} cores"


def _others_s() -> float:
    """CPU seconds of all processes on this machine but this one and its descendants; 0 if
    unknown."""
    try:
        ticks = [int(number) for number in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    except (OSError, ValueError):
        return 0.0
    user, nice, system, _, _, irq, softirq, *_ = ticks
    return (user + nice + system + irq + softirq - _family_ticks()) / os.sysconf("SC_CLK_TCK")


def _family_ticks() -> int:
    """CPU time of this process and of all its descendants."""
    of = _processes()
    own = _family(of)
    return sum(ticks for process, (_, ticks) in of.items() if process in own)


def family() -> set[int]:
    """Return the ids of this process and of all its descendants."""
    return _family(_processes())


def _processes() -> dict[int, tuple[int, int]]:
    """Return the processes of this machine: each with its parent, and its time with that of its
    ended children."""
    of: dict[int, tuple[int, int]] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = file.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        of[int(file.parent.name)] = int(fields[1]), sum(map(int, fields[11:15]))
    return of


def _family(of: Mapping[int, tuple[int, int]]) -> set[int]:
    family, grown = {os.getpid()}, True
    while grown:
        more = {process for process, (parent, _) in of.items() if parent in family} - family
        family, grown = family | more, bool(more)
    return family


@cache
def git_state() -> dict[str, str]:
    """Return the commit of the working directory and whether it has changes; nothing outside a
    repository."""
    try:
        commit = _git("rev-parse", "HEAD")
        return {"git.commit": commit, "git.dirty": str(bool(_git("status", "--porcelain"))).lower()}
    except (OSError, subprocess.SubprocessError):
        return {}


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


def cores() -> int:
    """CPU cores that this process may use: those that it may run on, or its container's CPU limit
    if lower."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([available, *map(math.ceil, cgroup_cpu_shares())]))


# Below this, handing work to a second thread costs more than it saves; while other processes are
# busy, it costs a hundred times more, because one thread waits for the other at every layer.
ONE_THREAD_BELOW_PARAMETERS = 50_000_000


def threads_for(parameters: int) -> int:
    """Return how many CPU threads suit a model of this size; a fixed rule, not a trial, so that
    answers repeat."""
    return 1 if parameters < ONE_THREAD_BELOW_PARAMETERS else cores()


def versions() -> dict[str, str]:
    """Versions of the libraries that speed and memory depend on, read without importing them."""
    return {"python": platform.python_version(), **{name: _version_of(name) for name in MEASURED_LIBRARIES}}


@cache
def _version_of(name: str) -> str:
    """Return a library's version; it takes milliseconds to read, and advice asks for it for each
    pair of candidates."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _cpu_model(file: str | Path = "/proc/cpuinfo") -> str:
    """Name the processor, with family and model: in a cloud the name alone may hide which
    generation it is."""
    name = processor.value_of(file, "model name") or platform.processor() or platform.machine()
    family, model = processor.value_of(file, "cpu family"), processor.value_of(file, "model\t")
    return f"{name} (family {family} model {model})" if family and model else name


def _total_memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def total_mib() -> float:
    """The machine's main memory."""
    return _total_memory_bytes() / MIB


def available_mib() -> float:
    """Memory that new processes can use without displacing others: the machine's, or this
    container's if less."""
    free = processor.value_of("/proc/meminfo", "MemAvailable:")
    if free is None:
        return _total_memory_bytes() / MIB / 2
    return min([int(free.split()[0]) / 1024, *cgroup_rooms_mib()])


FIRST_CACHED = ("total_active_file", "total_inactive_file")
SECOND_CACHED = ("active_file", "inactive_file", "slab_reclaimable")
# the list of this process's groups; their folders
CGROUP = (Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))


def cgroup_rooms_mib(own: Path = CGROUP[0], root: Path = CGROUP[1]) -> list[float]:
    """Return what each control group around this process has left below its memory limit.

    Cached files count as free, but not those that are mapped: a checkpoint would be read from the
    disk at each pass. Above memory.max the kernel kills processes, above memory.high it slows them
    down.
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
    """Return the content of a small file; empty if it cannot be read."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def cgroup_cpu_shares(own: Path = CGROUP[0], root: Path = CGROUP[1]) -> list[float]:
    """Return the CPU limit, in cores, of each control group around this process that has one."""
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
    """Yield the folders of the control groups around this process, and whether they are of cgroup
    version 1."""
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return
    for _, controllers, path in lines:
        if controllers and controller not in controllers.split(","):
            continue
        # version 2 has one tree for all controllers
        base = root / controller if controllers else root
        group = base / path.lstrip("/")
        for folder in (group, *(parent for parent in group.parents if parent.is_relative_to(base))):
            yield folder, bool(controllers)


def keep_kernels(count: int) -> None:
    """Limit how many kernels oneDNN and torch's layer above it cache; each reads the limit at its
    first product."""
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, str(count))


def device_class(device: str) -> str:
    """Return cpu or cuda: what model.device means on this machine, as far as that is known without
    torch."""
    if device != "auto":
        return device.partition(":")[0]
    has_cuda = "+cpu" not in versions()["torch"] and bool(gpu_models())
    return "cuda" if has_cuda else "cpu"


def gpu_models() -> list[str]:
    """Names of the GPUs that this process may use."""
    return [gpu.model for gpu in visible_gpus.visible()]
