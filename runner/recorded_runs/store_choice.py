"""Chooses the MLflow store that a comparison reads."""

from __future__ import annotations

from pathlib import Path

from runner.recorded_runs.folder_runs import has_job_records
from runner.tracking import moved_folders
from runner.tracking.stores import Store, create_store_from_options
from runner_base import ConfigError
from runner_base.errors import reject_password_in_uri


def choose_store_to_read(output_dir: Path, uri: str | None, experiment: str | None) -> Store | None:
    """Return the MLflow store to read, or None if the output folder has only job records.

    A missing sqlite file is an error, because MLflow would create it.
    """
    if uri:
        reject_password_in_uri("--tracking-uri", uri)
    store = create_store_from_options(output_dir, uri, experiment)
    file = store.sqlite_file
    if file is not None and not file.exists():
        if uri or not store.is_default_database:
            raise ConfigError(
                f"tracking uri {store.redacted_uri}: the database file does not exist", code="not_found"
            )
        if not experiment and has_job_records(output_dir):
            return None
        raise ConfigError(
            (
                f"no MLflow database at {file}. Run a job first, or name the database with "
                "--output-dir or --tracking-uri"
            ),
            code="not_found",
        )
    if file is not None and not file.is_file():  # MLflow would try to open it for minutes
        raise ConfigError(
            f"tracking uri {store.redacted_uri}: {file} is not a database file", code="unreadable"
        )
    if store.is_default_database and (output_dir / moved_folders.PLACE).exists():
        moved_folders.repair_paths_after_folder_move(output_dir)
    return store
