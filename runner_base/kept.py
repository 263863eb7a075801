"""What takes long to find out and is kept in the user's cache: a signed file for each thing, while
somebody uses it.

A new key (of another version, machine or model) is another file. So a file that nothing has used
for a long time is removed when a new one is written: GPUs, kernels, losses of layers, trials of
models, measurements, names and MLflow's empty database.
"""

from __future__ import annotations

import json
import logging
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from runner_base.files import replace_text, user_cache
from runner_base.texts import checked, short_hash, signed

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


def file_of(kind: str, key: object) -> Path | None:
    """Return the file of a key, which is a value of JSON, in the user's cache; None where there is
    no cache."""
    cache = user_cache()
    return None if cache is None else cache / f"{kind}-{short_hash(key, 16)}.json"


def read(file: Path) -> dict[str, Any]:
    """Return what a file holds; nothing where there is none or it is damaged, so that it is found
    out again."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        note_use(file)
        return checked(values) if isinstance(values, dict) and "checksum" in values else {}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.info("%s is damaged, so what it held is found out again: %s", file, error)
        return {}


def keep(file: Path, values: dict[str, Any]) -> bool:
    """Keep values, and return whether that was possible."""
    is_new = not file.exists()
    try:
        # as it will be read: JSON's keys are texts, whose order the checksum depends on
        replace_text(file, signed(json.loads(json.dumps(values))))
    except OSError as error:
        log.info("%s cannot be written, and its content will be found out again: %s", file, error)
        return False
    if is_new:
        remove_unused()
    return True


def note_use(file: Path) -> None:
    """Note that a file of the cache is in use: at most once a day, by its time."""
    with suppress(OSError):  # a cache that others have made for this user
        if time.time() - file.stat().st_mtime > DAY_S:
            os.utime(file)


def remove_unused() -> None:
    """Remove what nothing has used for UNUSED_DAYS from the user's cache."""
    folder, oldest = user_cache(), time.time() - UNUSED_DAYS * DAY_S
    for kind in KINDS if folder is not None else ():
        for file in folder.glob(kind):  # type: ignore[union-attr]
            with suppress(OSError):  # another process has just removed it
                if file.stat().st_mtime < oldest:
                    file.unlink()
