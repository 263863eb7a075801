"""Finds plug-ins: entry points of other packages. Listing them imports no code.

The entry point names a class or an object. The YAML of a choice or a data set is
`conf/GROUP/NAME.yaml` in that package, with the syntax of the runner's own `conf/`. The
runner's own options (runner/options/) use entry points too, so an option's folder can be
removed together with its entry points. Options do not count as plug-ins in output, records
and job ids.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, TypeVar

from runner_base.entry_points import find_plugin_packages
from runner_base.errors import ConfigError, format_unknown_choice_message
from runner_base.fields import get_choice_name

T = TypeVar("T")

KINDS = {
    "quantization": "runner.quantizations",
    "task": "runner.tasks",
    "model": "runner.models",
    "dataset": "runner.datasets",
    "scorer": "runner.scorers",
    "metric": "runner.metrics",
    "tracker": "runner.trackers",
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
    kind: str
    name: str
    target: str  # MODULE:ATTRIBUTE
    package: str  # with its version
    # another package with the same name for the same kind
    rival: str = field(default="", compare=False)

    @property
    def conf_folder(self) -> Path | None:
        """The conf/ folder of the plug-in's package, or None if the package is missing.

        The package is not imported. An option of the runner has its own folder:
        runner/options/NAME/conf/.
        """
        package, *inner = self.target.partition(":")[0].split(".")
        folder = _find_package_folder(package)
        return (
            None if folder is None else Path(folder, *(inner[:-1] if self.is_builtin_option else ()), "conf")
        )

    @property
    def is_builtin_option(self) -> bool:
        return self.package.partition(" ")[0] == OWN_PACKAGE

    def __str__(self) -> str:
        return f"{self.kind} {self.name} of {self.package}"


@cache
def _find_package_folder(package: str) -> str | None:
    """Find a package's folder without importing the package."""
    found = PathFinder.find_spec(package)
    places = [*(found.submodule_search_locations or ())] if found else []
    return places[0] if places else None


@cache
def find_plug_ins(kind: str) -> Mapping[str, PlugIn]:
    """Return the plug-ins of a kind that other packages provide, by name."""
    return {plug_in.name: plug_in for plug_in in _load_plug_ins() if plug_in.kind == kind}


@cache
def find_builtin_options(kind: str) -> Mapping[str, PlugIn]:
    """Return the options of a kind that the runner's own package provides, by name."""
    return {option.name: option for option in _load_builtin_options() if option.kind == kind}


@cache
def find_builtin_conf_folders() -> tuple[Path, ...]:
    folders = dict.fromkeys(option.conf_folder for option in _load_builtin_options())
    return tuple(folder for folder in folders if folder is not None and folder.is_dir())


@cache
def builtin_conf_files() -> Mapping[str, Path]:
    """Map each config file of the runner's options, such as task/serve.yaml, to the conf/ folder that
    contains it.
    """
    return {
        file.relative_to(folder).as_posix(): folder
        for folder in find_builtin_conf_folders()
        for file in sorted(folder.rglob("*.yaml"))
    }


def group_plug_ins_by_package() -> dict[str, list[PlugIn]]:
    by_package: dict[str, list[PlugIn]] = {}
    for plug_in in _load_plug_ins():
        by_package.setdefault(plug_in.package, []).append(plug_in)
    return by_package


@cache
def describe_unknown_entry_point_groups() -> tuple[str, ...]:
    """Return a warning for each unknown entry point group whose name starts like a runner group."""
    known = [*OF_OPTIONS.values(), *OF_COMPARISON]
    return tuple(
        f"{package}: entry points of {group} are ignored: "
        + format_unknown_choice_message(
            "group of entry points", group, known, _groups_with_same_ending(group, known)
        )
        for package in find_plugin_packages()
        for group in package.groups
        if group.startswith(PREFIXES) and group not in known
    )


def _groups_with_same_ending(group: str, known: Sequence[str]) -> list[str]:
    ending = group.rpartition(".")[2]
    return [name for name in known if name.rpartition(".")[2] == ending]


@cache
def find_plug_in_conf_folders() -> dict[str, Path]:
    """Return the conf/ folders of packages with plug-ins, by package."""
    found = {plug_in.package: plug_in.conf_folder for plug_in in reversed(_load_plug_ins())}
    return {package: conf for package, conf in sorted(found.items()) if conf is not None and conf.is_dir()}


@cache
def _load_builtin_options() -> tuple[PlugIn, ...]:
    found = [
        PlugIn(kind, name, target, str(package))
        for package in find_plugin_packages()  # without it if only a part is installed, such as the comparison
        if package.name == OWN_PACKAGE
        for kind, group in OF_OPTIONS.items()
        for name, target in package.groups.get(group, {}).items()
    ]
    return tuple(sorted(found, key=lambda option: (option.kind, option.name)))


@cache
def _load_plug_ins() -> tuple[PlugIn, ...]:
    found: dict[tuple[str, str], PlugIn] = {}
    for package in find_plugin_packages():
        if package.name == OWN_PACKAGE:
            continue
        for kind, group in KINDS.items():
            for name, target in package.groups.get(group, {}).items():
                if (first := found.get((kind, name))) is not None:
                    found[kind, name] = replace(first, rival=str(package))
                else:
                    found[kind, name] = PlugIn(kind, name, target, str(package))
    return tuple(sorted(found.values(), key=lambda plug_in: (plug_in.kind, plug_in.name)))


def load_plug_in_object(kind: str, name: str, expected_class: type[T]) -> T:
    """Import a plug-in's object. Raises ConfigError unless its type is `expected_class`."""
    plug_in = find_builtin_options(kind).get(name) or find_plug_ins(kind)[name]
    loaded = _import_plug_in_object(plug_in)
    if not isinstance(loaded, expected_class):
        raise ConfigError(
            (
                f"{plug_in.target} must be of type {expected_class.__name__} "
                f"({expected_class.__module__}), but is {_describe_object(loaded)}"
            ),
            key=plug_in,
            code="bad_value",
        )
    if (key := getattr(loaded, "key", name)) != name:
        raise ConfigError(
            f"{plug_in.target} has key = {key!r}. Set key = {name!r}", key=plug_in, code="mismatch"
        )
    return loaded


def load_plug_in_class(kind: str, name: str, base_class: type[T]) -> type[T]:
    """Import a plug-in's class. Raises ConfigError unless it is a subclass of `base_class`."""
    plug_in = find_builtin_options(kind).get(name) or find_plug_ins(kind)[name]
    loaded = _import_plug_in_object(plug_in)
    if not (isinstance(loaded, type) and issubclass(loaded, base_class)):
        raise ConfigError(
            (
                f"{plug_in.target} must be a subclass of {base_class.__name__} "
                f"({base_class.__module__}), but is {_describe_object(loaded)}"
            ),
            key=plug_in,
            code="bad_value",
        )
    # records would name another choice than what ran
    if (named := get_choice_name(loaded)) not in (None, plug_in.name):
        raise ConfigError(
            f"{plug_in.target} has name = {named!r}, unlike its entry point. Set name = {plug_in.name!r}",
            key=plug_in,
            code="mismatch",
        )
    return loaded


def check_plug_in_exists(key: str, kind: str, name: str) -> None:
    """Raise ConfigError if no installed package provides a plug-in of this kind and name."""
    if name not in (known := find_plug_ins(kind)):
        problem = (
            format_unknown_choice_message(kind, name, known)
            if known
            else f"no installed package provides any {kind} plug-in (see docs/plugins.md)"
        )
        raise ConfigError(problem, key=key, value=name, code="unknown_choice" if known else "needs_package")


def _import_plug_in_object(plug_in: PlugIn) -> Any:
    if plug_in.rival:
        raise ConfigError(
            f"{plug_in.rival} provides a {plug_in.kind} with the same name. Uninstall one of the packages",
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


def _describe_object(loaded: object) -> str:
    return (
        f"the class {loaded.__name__}"
        if isinstance(loaded, type)
        else f"an object of class {type(loaded).__name__}"
    )
