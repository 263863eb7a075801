"""Compiles the C kernels into the user cache, once for each source, compiler and processor.

This imports no torch. A command that needs the kernels builds them before its job begins, because a
build within a job would count as its time.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path

from runner_base import lock_file, machine, processor, report_step
from runner_base.files import get_user_cache_folder, replace_atomically
from runner_base.user_cache import mark_file_used, remove_unused_cache_files
from runner_engine.kernels import prebuilt

log = logging.getLogger(__name__)

FOLDER = Path(__file__).parent
SOURCE = "kernels.c"  # includes the headers beside it
MATH = "-fno-math-errno -fno-trapping-math -fno-signed-zeros -ffp-contract=fast"
# No -Werror: a compiler that is newer than ours may have warnings that ours lacks. In tests
# warnings are errors.
WARNINGS = "-Wall -Wextra"
NATIVE = "-march=native"
FLAGS = f"-O3 {NATIVE} -fopenmp {MATH} {WARNINGS} -fPIC"
# what few models need: built when one does
FLOAT32, PACKED, KV_BYTES, RECURRENT = "float32", "packed", "kv_bytes", "recurrent"
FEATURES = frozenset({FLOAT32, PACKED, KV_BYTES, RECURRENT})
# The units of kernels.c (units.h), those that take longest first, and for which features all of one
# are needed
UNITS: dict[str, frozenset[str]] = {
    "PACKED_BYTES": frozenset({PACKED}),
    "ATTENTION_BF16": frozenset(),
    "ATTENTION_BYTES_BF16": frozenset({KV_BYTES}),
    "PACKED_BF16": frozenset({PACKED}),
    "ATTENTION_F32": frozenset({FLOAT32}),
    "PACKED_F32": frozenset({FLOAT32, PACKED}),
    "PRODUCTS_BF16": frozenset(),
    "SHARED": frozenset(),
    "PRODUCTS_F32": frozenset({FLOAT32}),
    "RECURRENT_BF16": frozenset({RECURRENT}),
    "RECURRENT_F32": frozenset({FLOAT32, RECURRENT}),
    "ATTENTION_BYTES_F32": frozenset({FLOAT32, KV_BYTES}),
}
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
LOCK = "kernels.lock"
FAILURES = (OSError, subprocess.SubprocessError)


def find_wheel_library() -> Path | None:
    """Return the compiled library for this processor from the wheel, or None if it must be compiled."""
    return prebuilt.find_prebuilt_library()


def build_kernels_if_missing(features: Collection[str] = ()) -> float:
    """Compile the kernels unless the cache or the wheel contains them.

    Returns the seconds that compiling took.

    Ignores failures: the engine then uses torch, and reports the reason when it loads.
    """
    compiler, started = processor.find_c_compiler(), time.perf_counter()
    if compiler is None or prebuilt.find_prebuilt_library():
        return 0.0
    with suppress(*FAILURES):
        if not is_writable_only_by_user(_get_kernel_library_path(compiler, features)):
            ensure_compiled_library(compiler, features)
            return time.perf_counter() - started
    return 0.0


def ensure_compiled_library(compiler: str, features: Collection[str] = ()) -> Path:
    """Return the path of the compiled library, and compile it if necessary.

    Raises one of FAILURES if that is impossible.
    """
    path = _get_kernel_library_path(compiler, features)
    if is_writable_only_by_user(path):
        mark_file_used(path)
        return path
    with ExitStack() as locked:
        with suppress(OSError):  # some network disks have no locks: then several processes may build the same
            locked.enter_context(lock_file(path.with_name(LOCK)))
        if not is_writable_only_by_user(path):  # nobody has built it while this process waited
            log.info(
                "compiling the C kernels for this processor, which takes 10 to 30 s and happens only once"
            )
            with report_step("compiling the C kernels for this processor"):
                _compile_kernel_library(compiler, path)
            remove_unused_cache_files()
    return path


def build_compile_command(
    compiler: str, c_file: str, output: Path, processor_flags: str = NATIVE
) -> list[str]:
    """Return the compiler command for one C file.

    RUNNER_CFLAGS adds flags, which `make sanitize` uses.
    """
    return [
        compiler,
        *_build_compiler_flags(processor_flags),
        f"-DUNIT={c_file}",
        "-c",
        str(FOLDER / SOURCE),
        "-o",
        str(output),
    ]


def build_link_command(
    compiler: str, object_files: Iterable[Path], output: Path, processor_flags: str = NATIVE
) -> list[str]:
    return [
        compiler,
        *_build_compiler_flags(processor_flags),
        "-shared",
        *map(str, object_files),
        "-o",
        str(output),
        "-lm",
    ]


def parse_build_key(library: Path) -> str:
    """Return the build key: the part of the library's file name before the first dot.

    Libraries compiled from the same units share the key.
    """
    return library.name.split(".")[0]


def _build_compiler_flags(processor_flags: str = NATIVE) -> list[str]:
    more = os.environ.get("RUNNER_CFLAGS", "").split()
    left_out = processor.build_compiler_flags_disabling_features() if processor_flags == NATIVE else []
    return [*FLAGS.replace(NATIVE, processor_flags).split(), *left_out, *more]


def _compile_kernel_library(compiler: str, path: Path) -> None:
    """Compile a library's missing object files in parallel, and link the library."""
    features = set(path.name.split(".")[1:-1])
    objects = {
        unit: path.with_name(f"{parse_build_key(path)}.{unit}.o")
        for unit, of in UNITS.items()
        if of <= features
    }

    def compile_missing(c_file: str) -> None:
        if not is_writable_only_by_user(objects[c_file]):
            _run_atomically(objects[c_file], lambda partial: build_compile_command(compiler, c_file, partial))

    with ThreadPoolExecutor(machine.count_available_cpu_cores()) as several:
        list(several.map(compile_missing, objects))
    try:
        _run_atomically(path, lambda partial: build_link_command(compiler, objects.values(), partial))
    except subprocess.CalledProcessError:  # one may be damaged: the next attempt compiles them again
        for file in objects.values():
            file.unlink(missing_ok=True)
        raise


def _run_atomically(path: Path, command: Callable[[Path], list[str]]) -> None:
    def run_command(partial: Path) -> None:
        subprocess.run(command(partial), check=True, capture_output=True, text=True, timeout=900)
        partial.chmod(partial.stat().st_mode & ~OTHERS_WRITE)

    replace_atomically(path, run_command)


def _get_kernel_library_path(compiler: str, features: Collection[str]) -> Path:
    # not the path of the source
    parts = (
        read_source(),
        compiler,
        *_build_compiler_flags(),
        _read_compiler_version(compiler),
        _read_processor_features(),
    )
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    # linkers elsewhere may want all that is named
    some = FEATURES if sys.platform != "linux" else set(features)
    return _choose_safe_cache_folder(get_user_cache_folder()) / ".".join(
        (f"kernels-{key}", *sorted(some), "so")
    )


def read_source() -> str:
    return "".join(path.read_text() for path in sorted(FOLDER.glob("*.[ch]")))


def is_writable_only_by_user(path: Path) -> bool:
    """Whether a path exists and only root or this user can write to it.

    Other users must not be able to replace files that will be executed.
    """
    try:
        found = path.stat()
    except OSError:
        return False
    return found.st_uid in (0, os.geteuid()) and not found.st_mode & OTHERS_WRITE


@cache
def _choose_safe_cache_folder(folder: Path | None) -> Path:
    """Return the user cache, or a folder for this process alone if the user cache is unsafe.

    The user cache is unsafe if other users can write there, and unusable if this user cannot.
    """
    if folder is None:
        return _create_process_folder()
    with suppress(OSError):  # only its owner may; a umask of 002 lets the group write
        folder.chmod(folder.stat().st_mode & ~OTHERS_WRITE)
    if is_writable_only_by_user(folder):
        return folder
    log.warning(
        "other users can write to the cache %s, so each process compiles its own kernels. "
        "Set XDG_CACHE_HOME to a folder that only you can write to",
        folder,
    )
    return _create_process_folder()


def find_timing_folder(library: Path) -> Path:
    """Return the folder that stores the timings of a kernel library.

    The folder is next to the library, or in the user cache for a wheel's library.
    """
    return (
        _choose_safe_cache_folder(get_user_cache_folder())
        if library.parent == prebuilt.FOLDER
        else library.parent
    )


def is_in_user_cache(library: Path) -> bool:
    """Whether a kernel library is in the user cache, where later processes can find it."""
    folder = find_timing_folder(library)
    return not _create_process_folder.cache_info().currsize or folder != _create_process_folder()


@cache
def _create_process_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="runner-"))


@cache
def _read_compiler_version(compiler: str) -> str:
    """Return the compiler's version text.

    An updated compiler at the same path thus rebuilds the kernels.
    """
    done = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=60, check=False)
    return done.stdout


def _read_processor_features() -> str:
    """Return the processor's instruction sets, which distinguish machines that share a cache."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())
    except OSError:
        return platform.machine() + platform.processor()


def main() -> None:
    """Compile the kernels for `make install`.

    If this fails, the installation continues.
    """
    if processor.find_c_compiler() is None:
        print(
            "The C kernels are disabled: no C compiler was found, or RUNNER_NATIVE=0 is set. "
            "torch replaces the kernels, which is slower"
        )
    elif seconds := build_kernels_if_missing():
        print(f"compiled the C kernels for this processor in {seconds:.0f} s")


if __name__ == "__main__":
    main()
