"""Entry point of a pipeline's other processes: `python -m
runner.options.parts.pipeline.stage_process`, with the config on stdin.
"""

from __future__ import annotations

import logging
import pickle
import signal
import sys

from runner_base import child_process, signals


def main() -> int:
    """Run this process's stages. Ends with the parent process."""
    config, rank, port, parent = pickle.load(sys.stdin.buffer)
    child_process.die_with_parent(parent)
    for number in (signal.SIGINT, *signals.WARNING):
        signal.signal(number, signal.SIG_IGN)  # the parent ends this process
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    from runner.options.parts.pipeline.processes import join_rendezvous, run_stages  # imports torch

    return run_stages(config, rank, join_rendezvous(port))


if __name__ == "__main__":
    sys.exit(main())
