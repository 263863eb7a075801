"""Plug-ins: what packages add by entry points. Names are known at once; code is imported at its
first use.

The entry point names a class or an object. The YAML of a choice or a data set is
`conf/GROUP/NAME.yaml` in the package of that class, written as in the runner's own `conf/`. The
runner's own options (runner/options/) come by the same door: nothing imports them, and a folder of
theirs can be taken away with its entry points. They are no plug-ins in what is shown and recorded:
a job with one has the id that it would have if the option stood in the list.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, TypeVar

from runner_base.doors import packages_for_us
from runner_base.errors import ConfigError, unknown
from runner_base.fields import choice_of

T = TypeVar("T")

KINDS = {
    "quantization": "runner.quantizations",
    "task": "runner.tasks",
    "model": "runner.models",
    "dataset": "runner.datasets",
    "scorer": "runner.scorers",
    "metric": "runner.metrics",
}
OF_OPTIONS = KINDS | {
    "launcher": "runner.launchers",  # of Hydra, as the next: other packages add theirs by Hydra's own ways
    "sweeper": "runner.sweepers",
    "python": "runner.python",  # a name that `runner` has in Python
    "variables": "runner.variables",  # a function that reads environment variables as overrides
}
# groups that are no kind of plug-in: the comparison reads them
OF_COMPARISON = ("runner.metric_families", "runner_compare.readers", "runner_compare.sections")
# of groups meant for us
PREFIXES = ("runner.", "runner_base.", "runner_compare.", "runner_engine.")
OWN_PACKAGE = "runner-llm"  # whose entry points are the runner's own options


@dataclass(frozen=True)
class PlugIn:
    """One entry point of an installed package."""

    kind: str
    name: str
    target: str  # MODULE:ATTRIBUTE
    package: str  # with its version
    # another package with the same name for the same kind
    rival: str = field(default="", compare=False)

    @property
    def conf(self) -> Path | None:
        """The folder conf/ of its package, which is not imported; None if there is no such package.

        An option of the runner has its own beside its modules: runner/options/NAME/conf/.
        """
        package, *inner = self.target.partition(":")[0].split(".")
        folder = _folder_of(package)
        return None if folder is None else Path(folder, *(inner[:-1] if self.is_own else ()), "conf")

    @property
    def is_own(self) -> bool:
        """Whether it is an option of the runner, and of no other package."""
        return self.package.partition(" ")[0] == OWN_PACKAGE

    def __str__(self) -> str:
        return f"{self.kind} {self.name} of {self.package}"


@cache
def _folder_of(package: str) -> str | None:
    """Return the folder of a package, which is not imported."""
    found = PathFinder.find_spec(package)
    places = [*(found.submodule_search_locations or ())] if found else []
    return places[0] if places else None


@cache
def plug_ins(kind: str) -> Mapping[str, PlugIn]:
    """Return the plug-ins of a kind by name: those of other packages."""
    return {plug_in.name: plug_in for plug_in in _found() if plug_in.kind == kind}


@cache
def own_options(kind: str) -> Mapping[str, PlugIn]:
    """Return the runner's own options of a kind by name."""
    return {option.name: option for option in _own() if option.kind == kind}


@cache
def own_conf_folders() -> tuple[Path, ...]:
    """Return the folders conf/ of the runner's own options."""
    folders = dict.fromkeys(option.conf for option in _own())
    return tuple(folder for folder in folders if folder is not None and folder.is_dir())


@cache
def own_conf_files() -> Mapping[str, Path]:
    """Return which of these folders has a file, by the file's path below it: task/serve.yaml."""
    return {
        file.relative_to(folder).as_posix(): folder
        for folder in own_conf_folders()
        for file in sorted(folder.rglob("*.yaml"))
    }


def packages() -> dict[str, list[PlugIn]]:
    """Return the plug-ins by their package with its version."""
    by_package: dict[str, list[PlugIn]] = {}
    for plug_in in _found():
        by_package.setdefault(plug_in.package, []).append(plug_in)
    return by_package


@cache
def misnamed_groups() -> tuple[str, ...]:
    """Return a message for each group of entry points that looks like ours and is not."""
    known = [*OF_OPTIONS.values(), *OF_COMPARISON]
    return tuple(
        f"{package}: entry points of {group} are ignored: "
        f"{unknown('group of entry points', group, known, _same_ending(group, known))}"
        for package in packages_for_us()
        for group in package.groups
        if group.startswith(PREFIXES) and group not in known
    )


def _same_ending(group: str, known: Sequence[str]) -> list[str]:
    ending = group.rpartition(".")[2]
    return [name for name in known if name.rpartition(".")[2] == ending]


@cache
def conf_folders() -> dict[str, Path]:
    """Return the folders conf/ of the packages with plug-ins, by package."""
    found = {plug_in.package: plug_in.conf for plug_in in reversed(_found())}
    return {package: conf for package, conf in sorted(found.items()) if conf is not None and conf.is_dir()}


@cache
def _own() -> tuple[PlugIn, ...]:
    """Read the entry points of the runner's own package, and of no other."""
    found = [
        PlugIn(kind, name, target, str(package))
        for package in packages_for_us()  # without it if only a part is installed, such as the comparison
        if package.name == OWN_PACKAGE
        for kind, group in OF_OPTIONS.items()
        for name, target in package.groups.get(group, {}).items()
    ]
    return tuple(sorted(found, key=lambda option: (option.kind, option.name)))


@cache
def _found() -> tuple[PlugIn, ...]:
    """Return the entry points of all other installed packages that are of a kind here."""
    found: dict[tuple[str, str], PlugIn] = {}
    for package in packages_for_us():
        if package.name == OWN_PACKAGE:
            continue
        for kind, group in KINDS.items():
            for name, target in package.groups.get(group, {}).items():
                if (first := found.get((kind, name))) is not None:
                    found[kind, name] = replace(first, rival=str(package))
                else:
                    found[kind, name] = PlugIn(kind, name, target, str(package))
    return tuple(sorted(found.values(), key=lambda plug_in: (plug_in.kind, plug_in.name)))


def load_object(kind: str, name: str, base: type[T]) -> T:
    """Import the object of a plug-in, which is of this class; ConfigError names the package if that
    fails."""
    plug_in = own_options(kind).get(name) or plug_ins(kind)[name]
    loaded = _imported(plug_in)
    if not isinstance(loaded, base):
        raise ConfigError(
            f"{plug_in.target} is no {base.__name__} ({base.__module__}), but {_what(loaded)}",
            key=plug_in,
            code="bad_value",
        )
    if (key := getattr(loaded, "key", name)) != name:
        raise ConfigError(
            f"{plug_in.target} calls itself {key!r}: give it the key {name!r}", key=plug_in, code="mismatch"
        )
    return loaded


def load_class(kind: str, name: str, base: type[T]) -> type[T]:
    """Import the class of a plug-in, a subclass of this one; ConfigError names the package if that
    fails."""
    plug_in = own_options(kind).get(name) or plug_ins(kind)[name]
    loaded = _imported(plug_in)
    if not (isinstance(loaded, type) and issubclass(loaded, base)):
        raise ConfigError(
            f"{plug_in.target} is no subclass of {base.__name__} ({base.__module__}), but {_what(loaded)}",
            key=plug_in,
            code="bad_value",
        )
    # records would name another choice than what ran
    if (named := choice_of(loaded)) not in (None, plug_in.name):
        raise ConfigError(
            f"{plug_in.target} calls itself {named!r}: its class needs name = {plug_in.name!r}",
            key=plug_in,
            code="mismatch",
        )
    return loaded


def check_plug_in(key: str, kind: str, name: str) -> None:
    """Raise ConfigError if no installed package adds this name."""
    if name not in (known := plug_ins(kind)):
        problem = (
            unknown(kind, name, known) if known else f"no installed package adds a {kind} (docs/plugins.md)"
        )
        raise ConfigError(problem, key=key, value=name, code="unknown_choice" if known else "needs_package")


def _imported(plug_in: PlugIn) -> Any:
    if plug_in.rival:
        raise ConfigError(
            f"{plug_in.rival} has the same name for a {plug_in.kind}: uninstall one of the two packages",
            key=plug_in,
            code="ambiguous",
        )
    module, _, attribute = plug_in.target.partition(":")
    try:
        loaded: Any = importlib.import_module(module)
        for part in filter(None, attribute.split(".")):
            loaded = getattr(loaded, part)
    except (Exception, SystemExit) as error:  # whatever another package's code raises on import
        raise ConfigError(
            f"importing {plug_in.target} failed ({type(error).__name__}: {error})", key=plug_in, code="failed"
        ) from error
    return loaded


def _what(loaded: object) -> str:
    return (
        f"the class {loaded.__name__}"
        if isinstance(loaded, type)
        else f"an object of class {type(loaded).__name__}"
    )
