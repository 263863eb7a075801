"""Builds a wheel with compiled kernels, so that an environment without a compiler has them (`make wheel`).

It has several variants, for processors of one kind with more or fewer instructions. A second wheel is for ARM, where
gcc's cross compiler for it is installed.
A wheel says `linux_…` and not `manylinux_…`: its kernels use the libgomp that torch brings.
Beside the wheels lies their bill of materials (tools/sbom.py), and the wheel of the comparison alone, which has no
kernels and is for any machine (wheels/compare/).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from runner_base import machine, processor
from runner_engine.kernels import building
from runner_engine.kernels.prebuilt import VARIANTS, PrebuiltVariant
from tools import sbom

ROOT = Path(__file__).resolve().parents[1]
CROSS_COMPILERS = {"aarch64": "aarch64-linux-gnu-gcc"}


def compilers() -> dict[str, str]:
    """Return the compiler for each kind of processor that one is installed for."""
    here = processor.find_c_compiler()
    others = {
        name: shutil.which(compiler)
        for name, compiler in CROSS_COMPILERS.items()
        if name != platform.machine()
    }
    found = {platform.machine(): here, **others}
    return {name: compiler for name, compiler in found.items() if compiler}


def compile_variants(compiler: str, variants: list[PrebuiltVariant], folder: Path) -> None:
    """Compile the kernels of all units for each variant, and link them."""
    digest = hashlib.sha256(building.read_source().encode()).hexdigest()[:16]

    def compiled(variant: PrebuiltVariant, unit: str) -> None:
        output = folder / f"{variant.name}.{unit}.o"
        subprocess.run(building.build_compile_command(compiler, unit, output, variant.flags), check=True)

    with ThreadPoolExecutor(machine.count_available_cpu_cores()) as several:
        for done in [
            several.submit(compiled, variant, unit) for variant in variants for unit in building.UNITS
        ]:
            done.result()
    for variant in variants:
        objects, library = (
            sorted(folder.glob(f"{variant.name}.*.o")),
            folder / f"kernels-{digest}.{variant.name}.so",
        )
        subprocess.run(
            [*building.build_link_command(compiler, objects, library, variant.flags), "-s"], check=True
        )


def build_comparison(out: Path) -> None:
    """Build the wheel of the comparison alone."""
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    subprocess.run([*command, str(ROOT / "wheels" / "compare")], check=True, capture_output=True)
    print(f"built the wheel of the comparison alone in {out}")


def build_wheel(kind: str, libraries: Path, out: Path) -> Path:
    """Build the wheel for a kind of processor; tools/wheel_hook.py reads what is in the
    environment."""
    environment = os.environ | {
        "RUNNER_PREBUILT": str(libraries),
        "RUNNER_WHEEL_TAG": f"py3-none-linux_{kind}",
    }
    fresh = libraries / "wheel"
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(fresh), str(ROOT)]
    subprocess.run(command, check=True, env=environment, capture_output=True)
    (built,) = fresh.glob("*.whl")
    out.mkdir(parents=True, exist_ok=True)
    return Path(shutil.move(built, out / built.name))


def main() -> int:
    """Build all wheels that the compilers here allow."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder for the wheels")
    parser.add_argument("--variants", nargs="*", help="some of: " + ", ".join(one.name for one in VARIANTS))
    options = parser.parse_args()
    build_comparison(options.out)
    found = compilers()
    if sys.platform != "linux" or platform.machine() not in found:
        print(
            "no wheel with kernels can be built here: it needs Linux and a C compiler (gcc)", file=sys.stderr
        )
        return 2
    wheels = []
    for kind, compiler in found.items():
        wanted = [
            one
            for one in VARIANTS
            if one.machine == kind and (not options.variants or one.name in options.variants)
        ]
        if not wanted:
            continue
        with tempfile.TemporaryDirectory() as folder:
            compile_variants(compiler, wanted, Path(folder))
            wheels.append(build_wheel(kind, Path(folder), options.out))
        print(
            f"built a wheel for {kind} with kernels for {', '.join(one.name for one in wanted)} in {options.out}"
        )
    if wheels:
        print(f"wrote what they bring with them to {sbom.write(wheels)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
