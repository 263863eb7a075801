"""Builds the kernels once for each source, compiler and processor, in a cache that all clones of a
user share.

This imports no torch. A command that will need the kernels builds them before its job begins: a
build within a job would be counted as its time.
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

from runner_base import doing, hold, machine, processor
from runner_base.files import replace_with, user_cache
from runner_base.kept import note_use, remove_unused
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


def of_wheel() -> Path | None:
    """Return the library that a wheel brings for this processor; None where it is to be built."""
    return prebuilt.library()


def prepare(features: Collection[str] = ()) -> float:
    """Build the kernels with some features unless the cache or a wheel has them; return the
    seconds, or 0.

    A failure is not reported here: torch does the work then, and the engine says why when it loads.
    """
    compiler, started = processor.c_compiler(), time.perf_counter()
    if compiler is None or prebuilt.library():
        return 0.0
    with suppress(*FAILURES):
        if not is_ours(_place(compiler, features)):
            library(compiler, features)
            return time.perf_counter() - started
    return 0.0


def library(compiler: str, features: Collection[str] = ()) -> Path:
    """Return the compiled library, built if the cache does not have it; one of FAILURES where that
    is impossible."""
    path = _place(compiler, features)
    if is_ours(path):
        note_use(path)
        return path
    with ExitStack() as locked:
        with suppress(OSError):  # some network disks have no locks: then several processes may build the same
            locked.enter_context(hold(path.with_name(LOCK)))
        if not is_ours(path):  # nobody has built it while this process waited
            log.info("building the kernels for this processor, once: this takes 10 to 30 s")
            with doing("building the kernels for this processor"):
                _build(compiler, path)
            remove_unused()
    return path


def unit_command(compiler: str, unit: str, output: Path, processor_flags: str = NATIVE) -> list[str]:
    """Return the compiler's command for one unit; RUNNER_CFLAGS adds flags, for `make sanitize`."""
    return [
        compiler,
        *_flags(processor_flags),
        f"-DUNIT={unit}",
        "-c",
        str(FOLDER / SOURCE),
        "-o",
        str(output),
    ]


def link_command(
    compiler: str, objects: Iterable[Path], output: Path, processor_flags: str = NATIVE
) -> list[str]:
    """Return the command that makes a library of units."""
    return [compiler, *_flags(processor_flags), "-shared", *map(str, objects), "-o", str(output), "-lm"]


def key_of(file: Path) -> str:
    """Return what libraries have in common that are of the same units, whichever of them are
    linked."""
    return file.name.split(".")[0]


def _flags(processor_flags: str = NATIVE) -> list[str]:
    more = os.environ.get("RUNNER_CFLAGS", "").split()
    left_out = processor.compiler_flags() if processor_flags == NATIVE else []
    return [*FLAGS.replace(NATIVE, processor_flags).split(), *left_out, *more]


def _build(compiler: str, path: Path) -> None:
    """Compile the units of a library that are not there, side by side, and link all of them."""
    features = set(path.name.split(".")[1:-1])
    objects = {
        unit: path.with_name(f"{key_of(path)}.{unit}.o") for unit, of in UNITS.items() if of <= features
    }

    def compile_missing(unit: str) -> None:
        if not is_ours(objects[unit]):
            _make(objects[unit], lambda partial: unit_command(compiler, unit, partial))

    with ThreadPoolExecutor(machine.cores()) as several:
        list(several.map(compile_missing, objects))
    try:
        _make(path, lambda partial: link_command(compiler, objects.values(), partial))
    except subprocess.CalledProcessError:  # one may be damaged: the next attempt compiles them again
        for file in objects.values():
            file.unlink(missing_ok=True)
        raise


def _make(path: Path, command: Callable[[Path], list[str]]) -> None:
    def make(partial: Path) -> None:
        subprocess.run(command(partial), check=True, capture_output=True, text=True, timeout=900)
        partial.chmod(partial.stat().st_mode & ~OTHERS_WRITE)

    replace_with(path, make)


def _place(compiler: str, features: Collection[str]) -> Path:
    """Return where the cache has, or would have, the library that this compiler builds for this
    processor."""
    # not the path of the source
    parts = (source(), compiler, *_flags(), _version(compiler), _processor())
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    # linkers elsewhere may want all that is named
    some = FEATURES if sys.platform != "linux" else set(features)
    return _cache(user_cache()) / ".".join((f"kernels-{key}", *sorted(some), "so"))


def source() -> str:
    """Return the text of all kernels."""
    return "".join(path.read_text() for path in sorted(FOLDER.glob("*.[ch]")))


def is_ours(path: Path) -> bool:
    """Whether a file or folder is there, and nobody but this user and root can have written it: it
    will be run."""
    try:
        found = path.stat()
    except OSError:
        return False
    return found.st_uid in (0, os.geteuid()) and not found.st_mode & OTHERS_WRITE


@cache
def _cache(folder: Path | None) -> Path:
    """Return the user's cache; where nothing can be written there, or others can write, a folder
    for this process."""
    if folder is None:
        return _own_folder()
    with suppress(OSError):  # only its owner may; a umask of 002 lets the group write
        folder.chmod(folder.stat().st_mode & ~OTHERS_WRITE)
    if is_ours(folder):
        return folder
    log.warning(
        "others may write in %s: no kernels are run from there, and each process builds its own. "
        "XDG_CACHE_HOME=FOLDER names a folder of yours",
        folder,
    )
    return _own_folder()


def folder_of(library: Path) -> Path:
    """Return where measurements of a library are stored: beside it, or of a wheel's in the
    cache."""
    return _cache(user_cache()) if library.parent == prebuilt.FOLDER else library.parent


def is_kept(library: Path) -> bool:
    """Whether later processes will find what is stored for a library: its folder is the user's
    cache."""
    folder = folder_of(library)
    return not _own_folder.cache_info().currsize or folder != _own_folder()


@cache
def _own_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="runner-"))


@cache
def _version(compiler: str) -> str:
    """Return what the compiler says about its version: an updated compiler has the same path, and
    builds again."""
    done = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=60, check=False)
    return done.stdout


def _processor() -> str:
    """Return the instruction set: different machines may share a cache on a shared disk."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())
    except OSError:
        return platform.machine() + platform.processor()


def main() -> None:
    """Build the kernels for `make install`, which goes on without them."""
    if processor.c_compiler() is None:
        print("no C compiler is here, or RUNNER_NATIVE=0: torch does the kernels' work, more slowly")
    elif seconds := prepare():
        print(f"built the kernels for this processor in {seconds:.0f} s")


if __name__ == "__main__":
    main()
