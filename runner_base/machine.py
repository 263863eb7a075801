"""Describes the machine and this process: memory, cores, GPUs, library versions. Imports no
torch.
"""

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
from runner_base.texts import format_count

MIB = 1024 * 1024
MEASURED_LIBRARIES = ("torch", "transformers", "bitsandbytes", "torchao", "peft")


def _read_status_mib(key: str) -> float:
    """Return a kB value of /proc/self/status in MiB, or 0 if the platform has no such file."""
    return int((processor.read_proc_value("/proc/self/status", f"{key}:") or "0").split()[0]) / 1024


def rss_mib() -> float:
    """Return the resident memory of this process. 0 if the system does not report it."""
    return _read_status_mib("VmRSS")


def anonymous_rss_mib() -> float:
    """Return the resident memory of this process without file pages, such as a memory-mapped checkpoint."""
    return _read_status_mib("RssAnon")


def peak_rss_mib() -> float:
    """Return the peak resident memory since the process start or the last `reset_peak_rss`."""
    if peak := _read_status_mib("VmHWM"):
        return peak
    import resource  # without /proc: since the start of the process, never reset

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (MIB if sys.platform == "darwin" else 1024)


def reset_peak_rss() -> bool:
    """Free unused memory and reset the peak memory. Returns False if the kernel forbids it."""
    gc.collect()
    return release_free_memory() and reset_peak_rss_counter()


def release_free_memory() -> bool:
    """Return freed memory to the system. Returns False without glibc."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        return False
    return True


def reset_peak_rss_counter() -> bool:
    """Reset the peak memory to the current memory. Returns False if the kernel forbids it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def describe_machine() -> dict[str, str]:
    return {
        "cpu": _read_cpu_model(),
        "cores": str(count_available_cpu_cores()),
        "memory_gib": str(round(_total_memory_bytes() / 1024**3)),
        "gpus": ", ".join(visible_gpu_models()) or "none",
    }


def describe_hardware() -> str:
    """Describe CPU, cores, memory and GPUs on one line.

    Speeds are compared only between machines with equal descriptions.
    """
    described = describe_machine()
    return f"{described['cpu']}, {described['cores']} cores, {described['memory_gib']} GiB, GPUs: {described['gpus']}"


EXCLUSIVE = "alone"  # in its own process, with no notable load from other programs
BESIDE = "beside other work"
OTHERS_CORES = 0.5  # the load by other programs that a measurement tolerates
_measurements = itertools.count()  # of this process


class Contention:
    """Measures how much other programs load the machine during a measurement."""

    def __init__(self, is_job: bool = True) -> None:
        # earlier jobs leave memory behind, which raises peaks
        self.earlier = next(_measurements) if is_job else 0
        self.started, self.others_s = time.monotonic(), _measure_other_processes_cpu_s()

    def describe_competing_load(self) -> str:
        """Describe the load by other programs or earlier jobs, or report that there was none."""
        earlier = f"in a process that had already run {format_count(self.earlier, 'job')}"
        return self.describe_load_by_other_programs() or (earlier if self.earlier else EXCLUSIVE)

    def describe_load_by_other_programs(self) -> str:
        """Describe the CPU load by other programs since the start. Empty if negligible."""
        passed, others_s = time.monotonic() - self.started, _measure_other_processes_cpu_s() - self.others_s
        if others_s <= OTHERS_CORES * passed + 0.1:  # the kernel counts in steps of 10 ms
            return ""
        return f"{BESIDE} that used {others_s / max(passed, 0.01):.1f} of {os.cpu_count()} cores"


def _measure_other_processes_cpu_s() -> float:
    """Return the CPU seconds of all processes except this one and its descendants. 0 if unknown."""
    try:
        ticks = [int(number) for number in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    except (OSError, ValueError):
        return 0.0
    user, nice, system, _, _, irq, softirq, *_ = ticks
    return (user + nice + system + irq + softirq - _measure_process_tree_cpu_ticks()) / os.sysconf(
        "SC_CLK_TCK"
    )


def _measure_process_tree_cpu_ticks() -> int:
    """CPU time of this process and its descendants, in clock ticks."""
    of = _read_process_table()
    own = _find_current_process_tree(of)
    return sum(ticks for process, (_, ticks) in of.items() if process in own)


def descendant_pids() -> set[int]:
    """Return the ids of this process and its descendants."""
    return _find_current_process_tree(_read_process_table())


def _read_process_table() -> dict[int, tuple[int, int]]:
    """Return the parent id and CPU ticks of each process. The ticks include ended children."""
    of: dict[int, tuple[int, int]] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = file.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        of[int(file.parent.name)] = int(fields[1]), sum(map(int, fields[11:15]))
    return of


def _find_current_process_tree(process_table: Mapping[int, tuple[int, int]]) -> set[int]:
    family, grown = {os.getpid()}, True
    while grown:
        more = {process for process, (parent, _) in process_table.items() if parent in family} - family
        family, grown = family | more, bool(more)
    return family


@cache
def read_git_state() -> dict[str, str]:
    """Return the commit of the working directory and whether it has changes; {} outside git."""
    try:
        commit = _run_git("rev-parse", "HEAD")
        return {"git.commit": commit, "git.dirty": str(bool(_run_git("status", "--porcelain"))).lower()}
    except (OSError, subprocess.SubprocessError):
        return {}


def _run_git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


def count_available_cpu_cores() -> int:
    """Return the number of CPU cores that this process may use, given its affinity and container."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([available, *map(math.ceil, read_cgroup_cpu_limits())]))


# Below this, handing work to a second thread costs more than it saves; while other processes are
# busy, it costs a hundred times more, because one thread waits for the other at every layer.
ONE_THREAD_BELOW_PARAMETERS = 50_000_000


def num_threads_for_model(num_parameters: int) -> int:
    """Return the number of CPU threads for a model of this size.

    A fixed rule, rather than a trial run, keeps answers reproducible.
    """
    return 1 if num_parameters < ONE_THREAD_BELOW_PARAMETERS else count_available_cpu_cores()


def library_versions() -> dict[str, str]:
    """Return the versions of libraries that affect speed and memory. Imports no library."""
    return {
        "python": platform.python_version(),
        **{name: _library_version(name) for name in MEASURED_LIBRARIES},
    }


@cache
def _library_version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _read_cpu_model(file: str | Path = "/proc/cpuinfo") -> str:
    """Return the CPU name with its family and model number. The name alone may be ambiguous."""
    name = processor.read_proc_value(file, "model name") or platform.processor() or platform.machine()
    family, model = processor.read_proc_value(file, "cpu family"), processor.read_proc_value(file, "model\t")
    return f"{name} (family {family} model {model})" if family and model else name


def _total_memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def total_memory_mib() -> float:
    return _total_memory_bytes() / MIB


def available_memory_mib() -> float:
    """Return the memory available to new processes, given the container's limit."""
    free = processor.read_proc_value("/proc/meminfo", "MemAvailable:")
    if free is None:
        return _total_memory_bytes() / MIB / 2
    return min([int(free.split()[0]) / 1024, *read_cgroup_free_mib()])


FIRST_CACHED = ("total_active_file", "total_inactive_file")
SECOND_CACHED = ("active_file", "inactive_file", "slab_reclaimable")
# the list of this process's groups; their folders
CGROUP = (Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))


def read_cgroup_free_mib(cgroup_file: Path = CGROUP[0], root: Path = CGROUP[1]) -> list[float]:
    """Return the free memory in each cgroup of this process that has a memory limit.

    Cached files count as free, unless they are mapped: a checkpoint would be read from disk
    again at each pass. Above memory.max the kernel kills processes; above memory.high it slows
    them down.
    """
    rooms = []
    for folder, is_first in _iter_cgroups("memory", cgroup_file, root):
        limit_files, used_file, cached_names, mapped_name = (
            (("memory.limit_in_bytes",), "memory.usage_in_bytes", FIRST_CACHED, "total_mapped_file")
            if is_first
            else (("memory.max", "memory.high"), "memory.current", SECOND_CACHED, "file_mapped")
        )
        limits = [int(limit) for name in limit_files if (limit := _read_small_file(folder / name)).isdigit()]
        used = _read_small_file(folder / used_file)
        if not limits or not used:
            continue  # no limit here, or the container does not show it
        stat = dict(line.split() for line in _read_small_file(folder / "memory.stat").splitlines())
        cached = sum(int(stat.get(name, 0)) for name in cached_names)
        unmapped = max(0, cached - int(stat.get(mapped_name, 0)))
        rooms.append(max(0.0, (min(limits) - int(used) + unmapped) / MIB))
    return rooms


def _read_small_file(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def read_cgroup_cpu_limits(cgroup_file: Path = CGROUP[0], root: Path = CGROUP[1]) -> list[float]:
    """Return the CPU limits of this process's cgroups, in cores."""
    shares = []
    for folder, is_first in _iter_cgroups("cpu", cgroup_file, root):
        files = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if is_first else ("cpu.max",)
        try:
            quota, period = " ".join((folder / name).read_text().strip() for name in files).split()
        except (OSError, ValueError):
            continue  # no limit here, or the container does not show it
        if quota.isdigit() and int(quota):  # else it is "max", or -1
            shares.append(int(quota) / int(period))
    return shares


def _iter_cgroups(controller: str, cgroup_file: Path, root: Path) -> Iterator[tuple[Path, bool]]:
    """Yield the folders of this process's cgroups, and whether each uses cgroup version 1."""
    try:
        lines = [line.split(":", 2) for line in cgroup_file.read_text().splitlines()]
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


def limit_kernel_caches(count: int) -> None:
    """Limit the number of kernels that oneDNN and torch cache. Call this before the first matmul."""
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, str(count))


def resolve_device_class(device: str) -> str:
    """Resolve model.device to cpu or cuda without importing torch."""
    if device != "auto":
        return device.partition(":")[0]
    has_cuda = "+cpu" not in library_versions()["torch"] and bool(visible_gpu_models())
    return "cuda" if has_cuda else "cpu"


def visible_gpu_models() -> list[str]:
    return [gpu.model for gpu in visible_gpus.find_visible_gpus()]
