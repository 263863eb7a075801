"""Console script `runner-compare`: the comparison, and its subcommands `gate` and `pack`."""

from __future__ import annotations

import atexit
import gc
import sys
from typing import NoReturn

from runner_base import run_command, run_with_exit_code

SUBCOMMANDS = ("gate", "pack")


def entry() -> NoReturn:
    """Console entry point. Exit codes: 0 success, 1 a requirement failed, 2 wrong input, 3 a gate
    is undecided.
    """
    gc.disable()  # a search for reference cycles among thousands of runs would take longer than loading them
    atexit.register(gc.freeze)  # and no such search when Python ends
    run_command("runner-compare", lambda: main(sys.argv[1:]))


def main(arguments: list[str]) -> int:
    """Run `runner-compare` with these arguments and return the exit code."""
    if not arguments or arguments[0] not in SUBCOMMANDS:
        from runner_compare import command

        return command.main(arguments)
    from runner_compare.release_gate import command as gate

    name, *rest = arguments
    run = gate.run_gate if name == "gate" else gate.run_pack_command
    return run_with_exit_code(f"runner-compare {name}", lambda: run(rest))
