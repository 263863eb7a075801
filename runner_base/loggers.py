"""Set the log level of the four runner packages together."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

# conf/hydra/job_logging has them, too
PACKAGES = ("runner", "runner_engine", "runner_compare", "runner_base")


def get_package_loggers() -> list[logging.Logger]:
    return [logging.getLogger(name) for name in PACKAGES]


def enable_info_logging() -> None:
    """Log the runner packages at INFO level, as in a job's log.txt."""
    for logger in get_package_loggers():
        logger.setLevel(logging.INFO)


@contextmanager
def use_info_logging(override_level: bool = True) -> Iterator[None]:
    """Log the runner packages at INFO level within this block.

    `override_level=False` keeps a level that was set before.
    """
    before = [(logger, logger.level) for logger in get_package_loggers()]
    for logger, level in before:
        logger.setLevel(logging.INFO if override_level else level or logging.INFO)
    try:
        yield
    finally:
        for logger, level in before:
            logger.setLevel(level)
