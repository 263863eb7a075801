"""The entry of a pipeline's other processes: `python -m runner.engines.pipeline.stage_process`, what to do on stdin."""

from __future__ import annotations

import logging
import pickle
import signal
import sys

from runner.core import child


def main() -> int:
    """Serve the parent, and never outlive it."""
    config, place, port, parent = pickle.load(sys.stdin.buffer)
    child.end_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    from runner.engines.pipeline.processes import meet, serve  # imports torch

    return serve(config, place, meet(port))


if __name__ == "__main__":
    sys.exit(main())
