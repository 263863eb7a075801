"""From a spec to an engine or to a session: what a program needs that has no jobs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from runner_base.notes import Note
from runner_engine.checkpoints.resolve import ResolvedModel, resolve
from runner_engine.local.before_load import check_files, check_fits
from runner_engine.plan.formats import notes_of_reach
from runner_engine.sessions import Session
from runner_engine.spec import ModelSpec

if TYPE_CHECKING:  # imports torch
    from runner_engine.local.engine import LocalEngine


def check(resolved: ResolvedModel) -> list[Note]:
    """Reject what cannot work, as far as the files tell; return notes on what is close to a
    limit."""
    check_files(resolved)
    return notes_of_reach(resolved) + check_fits(resolved)


def open_engine(spec: ModelSpec) -> LocalEngine:
    """Return the engine of a model on this machine; it loads when a session is opened, or when
    `load` is called."""
    resolved = resolve(spec)
    check(resolved)
    # imports torch: only when the files are right
    from runner_engine.local.engine import LocalEngine

    return LocalEngine(resolved)


@contextmanager
def open_session(spec: ModelSpec, batch_size: int | None = None) -> Iterator[Session]:
    """Load a model, and free it at the end; batch_size: most requests at once, None: what fits."""
    engine = open_engine(spec)
    try:
        with engine.open(batch_size) as session:
            yield session
    finally:
        engine.close()
