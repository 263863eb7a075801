"""Which store a comparison reads."""

from __future__ import annotations

from pathlib import Path

from runner.recorded_runs.folder_runs import has_records
from runner.tracking import moved
from runner.tracking.stores import Store, store_from_options
from runner_base import ConfigError
from runner_base.errors import refuse_password


def store_to_read(output_dir: Path, uri: str | None, experiment: str | None) -> Store | None:
    """Return the store to read, by the rule of all commands; None if only the folder's jobs have
    recorded anything.

    A missing sqlite file is an error: MLflow would create it.
    """
    if uri:
        refuse_password("--tracking-uri", uri)
    store = store_from_options(output_dir, uri, experiment)
    file = store.file
    if file is not None and not file.exists():
        if uri or not store.is_own:
            raise ConfigError(f"tracking uri {store.shown}: there is no such file", code="not_found")
        if not experiment and has_records(output_dir):
            return None
        raise ConfigError(
            f"no MLflow database at {file}: run something first, or say where it is with --output-dir or "
            "--tracking-uri",
            code="not_found",
        )
    if file is not None and not file.is_file():  # MLflow would try to open it for minutes
        raise ConfigError(
            f"tracking uri {store.shown}: {file} is not a file, but a database is expected there",
            code="unreadable",
        )
    if store.is_own and (output_dir / moved.PLACE).exists():
        moved.mend(output_dir)
    return store
