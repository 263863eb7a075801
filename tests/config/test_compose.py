"""The fast composition equals Hydra's in every flag and every word of an error, and is done once
per choice."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.utils import create_config_search_path
from hydra.core.config_loader import ConfigLoader
from hydra.types import RunMode
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf
from omegaconf.base import Node
from omegaconf.basecontainer import BaseContainer
from options_here import studies

from runner.config import compose as compose_module
from runner.config.choices import CONF, installed_choice_files
from runner.config.compose import Composer
from runner.config.groups import GROUPS
from runner.config.hydra_versions import register_resolver
from runner.config.models import MODELS
from runner.config.runner_hydra import create_hydra
from runner.config.sources import create_config_loader
from runner.grid.expand import expand_grid

pytestmark = pytest.mark.slow  # as a group: `make test-fast` leaves them out

CHOICES = [f"{group}={file.stem}" for group in GROUPS for file in installed_choice_files(group)]
OF_GROUPS = [[*lines] for _, lines in itertools.groupby(CHOICES, key=lambda line: line.partition("=")[0])]
# Each choice once at least, beside one of every other group.
ROWS = [[lines[row % len(lines)] for lines in OF_GROUPS] for row in range(max(map(len, OF_GROUPS)))]
NAMELESS = [
    f"model={name}" for name, kind in MODELS.items() if not any(key.name == "name" for key in fields(kind))
]
GOOD = [
    "seed=3", "seed='3'", "task.limit=null", "task.limit=7", "output_dir=/a/b", "output_dir=${model.name}/x",
    "++task.output_dir=${output_dir}/x", "++task.batch_sizes=[1,[2,3]]", "task.split='a, b = [c]'", "task.split=\"it's\"",
    r"task.split=a\,b\=c", "task.split=", "+new=1", "+new.deep.key={a:1,b:[x,'y z',{c:null}]}", "++seed=5", "++new=2",
    "~seed", "~rerun=false", "~task.split", "~lora", "~rope=native", "model={name:abc}", "+task={more:1}",
    "task=${quantization}", "+task@second=sweep", "+quantization@model.q=nf4", "model.name=${oc.env:HOME}",
    "model.threads=2", "tracking.uri=${now:%Y}", "model.name=int8", "+list=[${seed},${task.split}]", "print=json",
]  # fmt: skip
HYDRA = [
    "hydra.job.name=x", "hydra.sweep.dir=/s/${now:%S%f}", "hydra.verbose=true", "hydra.runtime.cwd=/nowhere",
    "hydra.job.config.override_dirname.exclude_keys=[seed]", "hydra.job.config.override_dirname.kv_sep=-",
    "+hydra.job.env_set.A=${seed}", "hydra.job.env_copy=[PATH]", "hydra/job_logging=none", "~hydra.verbose",
    "hydra={verbose:true}", "hydra.overrides.task=[x]", "hydra.job.override_dirname=y", "hydra/hydra_logging=default",
    "hydra.job.config_name=other", "+hydra.runtime.choices.more=1", "hydra.mode=RUN",
]  # fmt: skip
BAD = [
    "sed=3", "seed=x", "task.limt=3", "quantization=nf5", "lora@foo=none", "seed=1,2", "seed='", "+seed=1", "nosuch=1",
    "++quantization=nf4", "quantization=3", "hydra.jb=1", "~nosuch", "~seed=77", "~quantization=nf5", "seed@x=3",
    "task.batch_sizes=oops", "quantization=glob(*)", "seed=interval(0,1)", "hydra.job.env_copy=[NO_SUCH_NAME]",
    "hydra.searchpath=3", "print=jsn", "a=b=c@d=", "hydra/nosuch=1", "+quantization=nf4", "model.name=[1,2]",
]  # fmt: skip
MASTERS = {
    "plain": [],
    "named": [
        "hydra.job.name=abc",
        "hydra/job_logging=none",
        "+hydra.job.env_set.B=2",
        "++hydra.job.env_set.S=${seed}",
    ],
    "dirname": [
        "hydra.job.config.override_dirname.kv_sep=-",
        "hydra.job.config.override_dirname.exclude_keys=[seed]",
    ],
    "broken alone": ["hydra.job.env_copy=[NO_SUCH_NAME]"],
}


def shape(node: Node, path: str = "") -> dict[str, Any]:
    """Return everything in a config: keys in order, unresolved values, types, flags, annotations,
    cached resolutions."""
    meta = {name: value for name, value in vars(node._metadata).items() if name != "flags"}
    flags = {name: value for name, value in (node._metadata.flags or {}).items() if value is not None}
    value = node.__dict__.get("_content", node.__dict__.get("_val"))
    parts = {path: (type(node), meta, flags)}
    if isinstance(node, BaseContainer) and isinstance(value, dict | list):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            assert child._get_parent() is node
            parts |= shape(child, f"{path}.{key}")
        return parts
    return {path: (*parts[path], type(value), value)}


def outcome(function: Callable[[], DictConfig]) -> tuple[str, Any]:
    """Return the config in every detail, or the error with all its causes."""
    try:
        config = function()
    except Exception as error:  # noqa: BLE001 - both compositions must raise the same
        causes: list[tuple[type[BaseException], str]] = []
        cause: BaseException | None = error
        while cause is not None:
            causes.append((type(cause), str(cause)))
            cause = cause.__cause__
        return "error", causes
    described = shape(config)
    return "config", (list(described), described)


@pytest.fixture(scope="module")
def loader() -> ConfigLoader:
    return create_hydra().config_loader


def start(loader: ConfigLoader, overrides: list[str], name: str = "config") -> tuple[DictConfig, Composer]:
    quiet = [line for line in overrides if "NO_SUCH_NAME" not in line]
    master = loader.load_configuration(name, ["hydra.mode=MULTIRUN", *quiet], RunMode.MULTIRUN)
    for line in overrides:
        if line not in quiet:
            master.hydra.overrides.hydra.append(line)
    return master, Composer(loader, name, master)


@pytest.fixture(scope="module")
def started(loader: ConfigLoader) -> dict[str, tuple[DictConfig, Composer]]:
    return {name: start(loader, overrides) for name, overrides in MASTERS.items()}


def assert_equal(loader: ConfigLoader, pair: tuple[DictConfig, Composer], overrides: list[str]) -> str:
    master, composer = pair
    full = outcome(lambda: loader.load_sweep_config(master, overrides))
    for turn in ("first", "again") if full[0] == "config" else ("first",):
        fast = outcome(lambda: composer.compose(overrides))
        assert fast[0] == full[0], (turn, overrides, full if full[0] == "error" else fast)
        assert fast[1] == full[1], (turn, overrides)
    return full[0]


# --------------------------------------------------------------------------------------- equal to
# Hydra's


@pytest.mark.thorough
@pytest.mark.parametrize("row", ROWS, ids=" ".join)
def test_every_choice(row: list[str], loader: ConfigLoader, started: dict[str, Any]) -> None:
    named = [] if {*NAMELESS} & {*row} else ["model.name=./x"]
    assert assert_equal(loader, started["plain"], [*row, "seed=4", *named]) == "config"


@pytest.mark.sampled(4)
@pytest.mark.parametrize("line", [*GOOD, *HYDRA, *BAD])
def test_every_kind_of_override(line: str, loader: ConfigLoader, started: dict[str, Any]) -> None:
    kind = assert_equal(loader, started["plain"], [line])
    if line in BAD:
        assert kind == "error"


@pytest.mark.thorough
@settings(max_examples=15, derandomize=True)
@given(data=st.data())
def test_any_mixture(data: st.DataObject, loader: ConfigLoader, started: dict[str, Any]) -> None:
    usual = st.sampled_from([*CHOICES, *GOOD])
    lines = data.draw(st.lists(usual | usual | usual | st.sampled_from([*HYDRA, *BAD]), max_size=6))
    assert_equal(loader, started[data.draw(st.sampled_from(sorted(MASTERS)))], lines)


@pytest.mark.thorough
@pytest.mark.parametrize("file", studies(), ids=lambda file: file.stem)
def test_every_study(file: Path, loader: ConfigLoader) -> None:
    own = create_config_loader(create_config_search_path(str(file.parent)))
    # the groups stand in this folder alone
    pair = start(own, [f"hydra.searchpath=[file://{CONF}]"], file.stem)
    jobs = expand_grid(["seed=1,2"], pair[0].hydra.sweeper.params, None, own)
    for job in random.Random(0).sample(jobs, k=2):
        # a key goes to the tasks that have it
        lacking = pair[1].compose_config_without_missing_keys(job)[1]
        assert assert_equal(own, pair, [line for line in job if line not in lacking]) == "config"
    assert any(pair[1]._kept.values())


ORDERED = {
    "a dict for a group after a value of it": ["model.name=x", "model={name:abc}"],
    "a value of a group after a dict for it": ["model={name:abc}", "model.name=x"],
    "hydra as a whole": ["seed=1", "hydra={runtime:{cwd:/nowhere},job:{env_copy:[PATH]}}"],
    "hydra read by a value before it": ["seed=5", "~hydra.job.env_set.S='0'"],
    "hydra read by a value after it": ["~hydra.job.env_set.S='0'", "seed=5"],
    "twice the same": ["seed=1", "quantization=nf4", "seed=2", "quantization=int8"],
    "added and changed": ["+new=1", "++new={a:2}", "~new", "+new.b=3"],
}


@pytest.mark.thorough
@pytest.mark.parametrize("lines", ORDERED.values(), ids=ORDERED)
def test_where_the_order_matters(lines: list[str], loader: ConfigLoader) -> None:
    assert_equal(loader, start(loader, ["+hydra.job.env_set.S=${seed}"]), lines)


@pytest.mark.thorough
def test_a_search_path_of_the_job(loader: ConfigLoader, tmp_path: Path) -> None:
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra" / "one.yaml").write_text("a: 1\n")
    pair = start(loader, [])
    assert assert_equal(loader, pair, ["+extra=one"]) == "config"
    search = (
        f"hydra.searchpath=[file://{tmp_path}]"  # makes extra a group, and the schema has none of that name
    )
    assert assert_equal(loader, pair, [search, "+extra=one"]) == "error"
    assert assert_equal(loader, pair, [search, "+extra@model=one"]) == "error"
    (tmp_path / "extra" / "one.yaml").write_text("name: z\n")
    assert assert_equal(loader, pair, [search, "+extra@model=one"]) == "config"


@pytest.mark.thorough
def test_what_is_looked_up_once_is_looked_up_once_for_the_whole_grid(loader: ConfigLoader) -> None:
    counter = itertools.count()
    register_resolver("test_once", lambda: next(counter), use_cache=True)
    try:
        master, composer = start(loader, ["hydra.sweep.dir=/s/${test_once:}"])
        before = master.hydra.sweep.dir
        assert (
            composer.compose(["seed=1"]).hydra.sweep.dir
            == before
            == composer.compose(["seed=2"]).hydra.sweep.dir
        )
        assert_equal(loader, (master, composer), ["seed=3"])
    finally:
        OmegaConf.clear_resolver("test_once")


@pytest.mark.thorough
def test_the_working_directory_is_the_present_one(
    loader: ConfigLoader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = start(loader, [])
    assert_equal(loader, pair, ["seed=1"])
    monkeypatch.chdir(tmp_path)
    assert_equal(loader, pair, ["seed=1"])
    assert pair[1].compose([]).hydra.runtime.cwd == os.getcwd()


def test_jobs_share_nothing(loader: ConfigLoader) -> None:
    _, composer = start(loader, [])
    one, two = composer.compose(["seed=1"]), composer.compose(["seed=1"])
    OmegaConf.set_struct(one, False)
    one.task.limit, one.hydra.job.num, one.extra = 1, 7, "x"
    one.hydra.overrides.task.append("more=1")
    assert composer.compose(["seed=1"]) == two
    assert two.task.limit == 200


# ----------------------------------------------------------------------------------------- and fast


@pytest.mark.thorough
def test_a_combination_is_composed_once(loader: ConfigLoader, monkeypatch: pytest.MonkeyPatch) -> None:
    _, composer = start(loader, ["hydra.job.name=abc", "hydra/job_logging=none"])
    calls: list[list[str]] = []
    whole = loader.load_configuration

    def counted(name: str, overrides: list[str], *rest: Any, **more: Any) -> DictConfig:
        calls.append(overrides)
        return whole(name, overrides, *rest, **more)

    monkeypatch.setattr(loader, "load_configuration", counted)
    words = ["quantization=none,int8,nf4,fp4", "seed=range(10)", "task.limit=1,2", "+tag=x,${seed}"]
    jobs = expand_grid(words, None, None, loader)
    assert [composer.compose(job).seed for job in jobs] == [int(job[1].removeprefix("seed=")) for job in jobs]
    assert len(jobs) == 160
    assert [lines[-1] for lines in calls] == [
        "quantization=none",
        "quantization=int8",
        "quantization=nf4",
        "quantization=fp4",
    ]


@pytest.mark.thorough
def test_only_so_many_combinations_are_kept(loader: ConfigLoader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compose_module, "MAX_KEPT", 2)
    pair = start(loader, [])
    for line in ("quantization=nf4", "quantization=fp4", "quantization=int8", "quantization=nf4"):
        assert_equal(loader, pair, [line])
        assert len(pair[1]._kept) <= 2
