"""Caches results that take long to compute in the user's cache folder, in one signed JSON file per key.

A new key (another version, machine or model) gets another file. Files unused for 90 days
are removed when a new one is written: GPUs, kernels, losses of layers, trials of models,
measurements, names and MLflow's empty database.
"""

from __future__ import annotations

import json
import logging
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from runner_base.files import get_user_cache_folder, replace_text_file_atomically
from runner_base.texts import compute_short_json_hash, to_signed_json, verify_and_remove_checksum

log = logging.getLogger(__name__)

KINDS = (
    *(
        "gpus-*.json",
        "kernels-*",
        "losses-*.json",
        "mlflow-*.db",
        "names-*.json",
        "products-*.json",
        "rates-*.json",
    ),
    *("scores-*.json", "trials-*.json"),
)
DAY_S = 86_400
UNUSED_DAYS = 90


def get_cache_file(kind: str, key: object) -> Path | None:
    cache = get_user_cache_folder()
    return None if cache is None else cache / f"{kind}-{compute_short_json_hash(key, 16)}.json"


def read_cache_file(file: Path) -> dict[str, Any]:
    """Return the content of a cache file; {} if it is missing or damaged."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        mark_file_used(file)
        return verify_and_remove_checksum(values) if isinstance(values, dict) and "checksum" in values else {}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.info("%s is damaged and will be recomputed: %s", file, error)
        return {}


def write_cache_file(file: Path, values: dict[str, Any]) -> bool:
    """Write values to a cache file. Returns whether the write succeeded."""
    is_new = not file.exists()
    try:
        # as it will be read: JSON's keys are texts, whose order the checksum depends on
        replace_text_file_atomically(file, to_signed_json(json.loads(json.dumps(values))))
    except OSError as error:
        log.info("%s cannot be written, so its content will be recomputed each time: %s", file, error)
        return False
    if is_new:
        remove_unused_cache_files()
    return True


def mark_file_used(file: Path) -> None:
    """Mark a cache file as used by updating its modification time, at most once a day."""
    with suppress(OSError):  # a cache that others have made for this user
        if time.time() - file.stat().st_mtime > DAY_S:
            os.utime(file)


def remove_unused_cache_files() -> None:
    """Remove files from the user cache that were not used for UNUSED_DAYS days."""
    folder, oldest = get_user_cache_folder(), time.time() - UNUSED_DAYS * DAY_S
    for kind in KINDS if folder is not None else ():
        for file in folder.glob(kind):  # type: ignore[union-attr]
            with suppress(OSError):  # another process has just removed it
                if file.stat().st_mtime < oldest:
                    file.unlink()
