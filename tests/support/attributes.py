"""A program of somebody else that uses Hydra, OmegaConf and MLflow, and then the runner's Python
library.

`python -m tests.support.attributes FOLDER [PATCH]` prints as JSON which attributes of their modules
and classes differ afterwards, and which modules the runner has imported; PATCH is a statement that
is executed beside the runner's work. `python -m tests.support.attributes --describe` reads names of
modules and prints what they hold without the runner.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

# the beginnings of names: hydra_plugins, mlflow_skinny …
PACKAGES = ("hydra", "omegaconf", "mlflow")
OURS = "hydra_plugins.runner"
SCALARS = (str, int, float, bool, type(None))


def modules() -> dict[str, ModuleType]:
    """Return the loaded modules of these packages."""
    return {name: it for name, it in {**sys.modules}.items() if name.startswith(PACKAGES) and name != OURS}


def attributes(of: dict[str, ModuleType]) -> dict[str, Any]:
    """Return every attribute of some modules, of their classes, and each entry of a dict that is
    such an attribute."""
    found: dict[str, Any] = {}
    for module_name, module in of.items():
        for name, value in {**vars(module)}.items():
            found[f"{module_name}.{name}"] = value
            if isinstance(value, type) and value.__module__ == module_name:
                found |= {f"{module_name}.{name}.{key}": it for key, it in vars(value).items()}
    kept = ("__", "_cache", "_engine_map")  # by Python, and by MLflow for its own use
    dicts = {key: value for key, value in found.items() if isinstance(value, dict) and not key.endswith(kept)}
    return found | {
        f"{key}[{entry!r}]": it for key, value in dicts.items() for entry, it in {**value}.items()
    }


def described(value: Any) -> str:
    """Return what a value is, in words that are the same in another process."""
    if isinstance(value, ModuleType):
        return value.__name__
    if isinstance(value, staticmethod | classmethod):
        return f"{type(value).__name__} {described(value.__func__)}"
    name = getattr(value, "__qualname__", None)
    if isinstance(name, str):
        return f"{getattr(value, '__module__', '')}.{name}"
    return f"{type(value).__name__} {value!r}" if isinstance(value, SCALARS) else type(value).__name__


def descriptions(names: list[str]) -> dict[str, str]:
    """Return what the attributes of modules are."""
    return {key: described(it) for key, it in attributes({name: sys.modules[name] for name in names}).items()}


def use_hydra(folder: Path) -> Any:
    """Use Hydra and OmegaConf as a program does; return what comes of it."""
    import hydra
    from hydra.core.config_store import ConfigStore
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.utils import JobRuntime
    from omegaconf import OmegaConf

    from runner.config.hydra_versions import VERSION_BASE

    (folder / "own.yaml").write_text("defaults: [db: mysql, _self_]\nport: ${other}\nother: 1\n")
    if "db" not in ConfigStore.instance().repo:
        ConfigStore.instance().store(group="db", name="mysql", node={"host": "here"})
    with hydra.initialize_config_dir(str(folder), job_name="their_program", **VERSION_BASE):
        composed = hydra.compose("own", ["port=2"], return_hydra_config=True)
        HydraConfig.instance().set_config(composed)
    sources = [str(it.path) for it in composed.hydra.runtime.config_sources]
    loaded = OmegaConf.to_yaml(OmegaConf.load(folder / "own.yaml"))
    stored = _tree(ConfigStore.instance().repo)
    return [
        OmegaConf.to_container(composed.db),
        composed.port,
        sources,
        loaded,
        stored,
        JobRuntime.instance().get("name"),
    ]


def _tree(repo: Any) -> Any:
    return (
        {key: _tree(inner) for key, inner in sorted(repo.items())}
        if isinstance(repo, dict)
        else type(repo).__name__
    )


def use_runner(folder: Path) -> None:
    """Compose, evaluate, run a grid and load, as a program that imports the runner does."""
    from runner import evaluate, grid, load

    job = ["model=stub", "task.limit=2", f"output_dir={folder / 'outputs'}"]
    evaluate(*job)
    assert len(grid(*job, "seed=1,2", "hydra/launcher=basic")) == 2
    with load("stub") as model:
        assert model.generate("1 + 1?")


def main(folder: Path, patch: str) -> dict[str, Any]:
    """Compare before and after."""
    import mlflow  # noqa: F401 - as a program that logs to it

    first = use_hydra(folder)
    before = attributes(modules())
    names = [*modules()]
    use_runner(folder)
    exec(patch, {})
    after = attributes({name: sys.modules[name] for name in names})
    second = use_hydra(folder)
    new = [name for name in modules() if name not in names]
    missing = object()
    return {
        "changed": sorted(key for key in before if after.get(key, missing) is not before[key]),
        "added": sorted(key for key in after if key not in before and not isinstance(after[key], ModuleType)),
        "imported": descriptions(new),
        "modules": new,
        "same": [first == second, first, second],
    }


if __name__ == "__main__":
    if sys.argv[1] == "--describe":
        wanted = json.load(sys.stdin)
        for each in wanted:
            importlib.import_module(each)
        print(json.dumps(descriptions(wanted)))
    else:
        print(json.dumps(main(Path(sys.argv[1]), "\n".join(sys.argv[2:]))))
