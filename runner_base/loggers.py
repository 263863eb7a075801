"""The loggers of the four packages, whose level is set together."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

# conf/hydra/job_logging has them, too
PACKAGES = ("runner", "runner_engine", "runner_compare", "runner_base")


def own_loggers() -> list[logging.Logger]:
    """Return the logger above those of each package."""
    return [logging.getLogger(name) for name in PACKAGES]


def log_progress() -> None:
    """Let the packages log what a job's log.txt has, which is more than warnings."""
    for logger in own_loggers():
        logger.setLevel(logging.INFO)


@contextmanager
def logging_progress(even_if_set: bool = True) -> Iterator[None]:
    """Do so for a while; even_if_set false: a level that was set before stays."""
    before = [(logger, logger.level) for logger in own_loggers()]
    for logger, level in before:
        logger.setLevel(logging.INFO if even_if_set else level or logging.INFO)
    try:
        yield
    finally:
        for logger, level in before:
            logger.setLevel(level)
