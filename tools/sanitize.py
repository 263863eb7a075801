"""Runs tests of the kernels, built with AddressSanitizer and UndefinedBehaviorSanitizer (`python -m
tools.sanitize`).

`--short` runs tests of plain products, of the fused pass and of checked arguments; other arguments
go to pytest. Where there is no gcc, or its sanitizers are not installed, nothing runs, and the exit
code is 0: a machine without a compiler has no kernels, and CI has both.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from runner_base import processor

FLAGS = "-O1 -g1 -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer"
LIBRARIES = ("libasan.so", "libubsan.so")
LOCAL = "tests/engine"
TESTS = (LOCAL, "tests/engine/decode/test_sampling.py")
SHORT = (
    f"{LOCAL}/kernels/test_checks.py",
    f"{LOCAL}/kernels/test_shared_numbers.py",
    f"{LOCAL}/matmul/test_panels.py",
    f"{LOCAL}/decode/test_fused_forward.py",
    f"{LOCAL}/kv_cache/test_kv_arenas.py",
)
# These render chat templates in a process that limits its own memory, and AddressSanitizer reserves
# far more than that. Nothing but the template is theirs alone: other tests reach the same kernels.
LEFT_OUT = (
    f"{LOCAL}/test_engine.py::test_chat_goes_through_the_template",
    f"{LOCAL}/decode/test_forward_scoring.py::test_a_text_is_tokenized_together_with_what_it_follows",
    f"{LOCAL}/kv_cache/test_prefix_tree_conversations.py::test_the_next_turn_computes_only_what_is_new",
)


def library_paths(compiler: str) -> list[str]:
    """Return the sanitizers' libraries, which a Python that is built without them has to load
    first."""
    found = [
        subprocess.run(
            [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=False
        ).stdout
        for name in LIBRARIES
    ]
    return [str(Path(path.strip()).resolve()) for path in found if Path(path.strip()).is_absolute()]


def main(arguments: list[str]) -> int:
    """Build, run the tests and return pytest's exit code."""
    compiler = processor.find_c_compiler()
    libraries = library_paths(compiler) if compiler else []
    if len(libraries) < len(LIBRARIES):
        print(
            "not run: there is no C compiler with AddressSanitizer here (gcc and its libasan)",
            file=sys.stderr,
        )
        return 0
    environment = os.environ | {"RUNNER_CFLAGS": FLAGS}
    build = [sys.executable, "-m", "runner_engine.kernels.building"]
    # without the libraries: a compiler needs none
    subprocess.run(build, env=environment, check=True)
    environment |= {
        "LD_PRELOAD": ":".join(libraries),
        # Python leaves much behind when it exits, and a test asks for more memory than there is
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
    }
    is_short = "--short" in arguments
    others = [one for one in arguments if one != "--short"]
    # a finding ends the process, and output that pytest has captured by then would be lost
    marks = "not slow" if is_short else "not slow and not thorough"  # the short ones are chosen by hand
    command = [sys.executable, "-m", "pytest", "-s", "-q", "-n", "0", "-m", marks]
    command += [*(f"--deselect={name}" for name in LEFT_OUT), *(SHORT if is_short else TESTS), *others]
    return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
