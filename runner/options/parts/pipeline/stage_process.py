"""Entry point of a pipeline's stage processes. They read their config from stdin."""

from __future__ import annotations

import logging
import pickle
import signal
import sys

from runner_base import child_process, signals


def main() -> int:
    """Run this process's stages until the pipeline or the parent process ends."""
    config, rank, port, parent = pickle.load(sys.stdin.buffer)
    child_process.request_kill_when_parent_dies(parent)
    for number in (signal.SIGINT, *signals.WARNING):
        signal.signal(number, signal.SIG_IGN)  # the parent ends this process
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    from runner.options.parts.pipeline.processes import (  # imports torch
        connect_message_store,
        run_parts_until_pipeline_end,
    )

    return run_parts_until_pipeline_end(config, rank, connect_message_store(port))


if __name__ == "__main__":
    sys.exit(main())
