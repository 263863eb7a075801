"""Parses each file of conf/ once, since no test changes it: it is a third of composing, which most
commands do."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from typing import Any

from omegaconf import OmegaConf

from runner.config.choices import CONF
from runner_base.plugins import find_builtin_conf_folders


def loading_once() -> Callable[[Any], Any]:
    """Return a function like OmegaConf.load that remembers the files of conf/."""
    load: Callable[[Any], Any] = OmegaConf.load
    parsed: dict[str, bytes] = {}
    shipped = tuple(f"{folder}{os.sep}" for folder in (CONF, *find_builtin_conf_folders()))

    def load_once(file: Any) -> Any:
        name = str(getattr(file, "name", file))
        if not name.startswith(shipped):
            return load(file)
        if name not in parsed:
            parsed[name] = pickle.dumps(load(file))
        return pickle.loads(parsed[name])

    return load_once


def parse_all() -> None:
    """Parse all files of conf/, for the processes that are forked from this one."""
    load = loading_once()
    for folder in (CONF, *find_builtin_conf_folders()):
        for path in folder.rglob("*.yaml"):
            load(str(path))
    OmegaConf.load = staticmethod(load)  # type: ignore[assignment]
