"""Expansion of a grid: as Hydra's basic sweeper does it, with zips and exclusions, and the
errors."""

from __future__ import annotations

from typing import Any

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from raising import raises

from runner.config.override_quoting import quote_override_values
from runner.config.runner_hydra import create_hydra
from runner.grid.expand import MAX_JOBS, check_exclude_keys, expand_grid, is_excluded_by_rules
from runner_base.errors import Code, ConfigError

KEYS = ["seed", "task.limit", "task.system", "quantization", "model@other", "+new", "++new", "~gone"]
VALUES = [
    "1", "-2.5", "null", "true", "", "word", "'quoted, text'", '"it\'s"', r"'a\'b'", r"a\,b", r"a\=b", "a b", "${seed}/x",
    "[1,4]", "[[1],[x,'y z']]", "{a:1,b:[2,{c:d}]}", "1,2,3", "nf4,fp4", "a,'b,c',null", "[1,4],[2,8]", "{a:1},{b:2}",
    "choice(a)", "choice(1,[2],{c:3},'d,e')", "range(3)", "range(1,7,2)", "range(5,1,-2)", "range(0,1,0.25)",
    "sort(3,1,2)", "sort(range(3),reverse=true)", "sort([3,1,2])", "tag(t,choice(a,b))", "int(4.0,2.0)", "str([1,2])",
    "${a:1,2},${b}", "1e-3,1e3", "/a/b:c,d.e", "inf,nan",
]  # fmt: skip
lines = st.builds("{}={}".format, st.sampled_from(KEYS), st.sampled_from(VALUES)) | st.sampled_from(
    ["~seed", "~task"]
)


@pytest.fixture(scope="module")
def loader() -> ConfigLoader:
    return create_hydra().config_loader


def basic(arguments: list[str], loader: ConfigLoader | None = None) -> list[list[str]]:
    """Return the jobs that Hydra's own sweeper makes of the same arguments."""
    overrides = OverridesParser.create(config_loader=loader).parse_overrides(arguments)
    return BasicSweeper.split_arguments(overrides, max_batch_size=None)[0]


def error_of(
    arguments: list[str], params: dict[str, str] | None = None, zips: list[dict[str, str]] | None = None
) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        expand_grid(arguments, params, zips, None)
    assert "\n" not in str(caught.value)
    return caught.value


# ------------------------------------------------------------------------------------------ as
# Hydra does


@pytest.mark.thorough
@settings(max_examples=100)
@given(st.lists(lines, max_size=4), st.lists(lines, max_size=3))
def test_params_and_command_line_multiply_as_in_the_basic_sweeper(
    params: list[str], arguments: list[str]
) -> None:
    pairs = dict(line.split("=", 1) for line in params if "=" in line)
    assert expand_grid(arguments, pairs, None, None) == basic(
        quote_override_values([f"{k}={v}" for k, v in pairs.items()]) + arguments
    )


@settings(max_examples=100)
@given(st.lists(lines, max_size=4))
def test_a_job_is_itself_again_when_expanded(arguments: list[str]) -> None:
    for job in expand_grid(arguments, None, None, None)[:20]:
        assert expand_grid(job, None, None, None) == [job]


@pytest.mark.thorough
@settings(max_examples=100)
@given(st.text(alphabet="ab1 ,='\"\\[]{}$:()~+", max_size=12))
def test_any_quoted_text_arrives_unchanged(text: str) -> None:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'") if text.endswith("\\") or "'" in text else text
    line = f"task.system='{escaped}'"
    try:
        wanted = basic([line])
    except OverrideParseException:
        return  # not a string for Hydra either
    assert expand_grid([line], None, None, None) == wanted


@pytest.mark.parametrize("value", ["glob(*)", "glob(*4)", "glob([n*,f*],exclude=none)"])
def test_glob_lists_the_choices_of_a_group(value: str, loader: ConfigLoader) -> None:
    line = f"quantization={value}"
    assert expand_grid([line], None, None, loader) == basic([line], loader) != []
    assert ["quantization=nf4"] in expand_grid([], {"quantization": value}, None, loader)


def test_the_last_one_varies_fastest() -> None:
    jobs = expand_grid(["c=5,6"], {"a": "1,2"}, [{"b": "3,4", "x": "p,q"}], None)
    assert jobs == [
        ["a=1", "b=3", "x=p", "c=5"],
        ["a=1", "b=3", "x=p", "c=6"],
        ["a=1", "b=4", "x=q", "c=5"],
        ["a=1", "b=4", "x=q", "c=6"],
        ["a=2", "b=3", "x=p", "c=5"],
        ["a=2", "b=3", "x=p", "c=6"],
        ["a=2", "b=4", "x=q", "c=5"],
        ["a=2", "b=4", "x=q", "c=6"],
    ]


def test_nothing_to_vary_is_one_job() -> None:
    assert (
        expand_grid([], None, None, None)
        == [[]]
        == expand_grid([], {}, [], None)
        == expand_grid([], {}, [{}], None)
    )


def test_the_command_line_wins_over_params_in_their_place() -> None:
    assert expand_grid(["a=9"], {"a": "1,2", "b": "3"}, None, None) == [["a=9", "b=3"]]
    assert expand_grid(["a=9"], {"a": "interval(0,1)", "b": "3"}, None, None) == [["a=9", "b=3"]]


def test_the_last_of_two_equal_keys_wins_in_the_place_of_the_first() -> None:
    assert expand_grid(["a=1,2", "b=3", "a=4"], None, None, None) == [["a=4", "b=3"]]


def test_shuffled_values_are_all_there() -> None:
    assert sorted(expand_grid(["a=shuffle(range(20))"], None, None, None)) == sorted(basic(["a=range(20)"]))
    assert sorted(expand_grid(["a=shuffle(x,y,z)"], None, None, None)) == [["a=x"], ["a=y"], ["a=z"]]


def test_texts_of_a_study_are_what_they_say() -> None:
    both = {"task.prompt": "Ann has 3, Bob has 4", "task.data": "数据.jsonl,b.jsonl"}
    assert expand_grid([], both, None, None) == [
        ["task.prompt='Ann has 3, Bob has 4'", "task.data='数据.jsonl'"],
        ["task.prompt='Ann has 3, Bob has 4'", "task.data=b.jsonl"],
    ]
    listed = OmegaConf.create(
        {"task.prompt": ["Ann has 3, Bob has 4", "null", None, "请写"], "task.stop": ["。", "a"]}
    )
    jobs = expand_grid([], {}, [{"task.prompt": listed["task.prompt"]}], None)
    assert jobs == [
        [f"task.prompt={text}"] for text in ("'Ann has 3, Bob has 4'", "'null'", "null", "'请写'")
    ]
    assert expand_grid([], {"task.stop": listed["task.stop"]}, None, None) == [["task.stop=['。','a']"]], (
        "one list"
    )
    assert expand_grid([], {"task": {"limit": "1,2"}}, None, None) == [["task.limit=1"], ["task.limit=2"]]
    assert is_excluded_by_rules([{"task.data": "数据,库.jsonl"}], lambda _: "库.jsonl")


def test_params_may_come_from_a_config() -> None:
    node = OmegaConf.create({"n": 2, "params": {"a": "1,${..n}"}, "zip": [{"b": "3,4", "c": "5,6"}]})
    assert len(expand_grid([], node.params, node.zip, None)) == 4
    assert expand_grid([], node.params, node.zip, None)[2] == ["a=2", "b=3", "c=5"]


# --------------------------------------------------------------------------------------------- zips


@pytest.mark.thorough
@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 3))
def test_the_keys_of_a_zip_advance_together(length: int, keys: int, factor: int) -> None:
    values = [f"v{number}" for number in range(length)]
    together = {f"k{key}": f"choice({','.join(values)})" for key in range(keys)}
    jobs = expand_grid([f"f=range({factor})"], None, [together, {"other": "x"}], None)
    assert len(jobs) == length * factor
    for number, job in enumerate(jobs):
        step = values[number // factor]
        assert job == [*(f"{key}={step}" for key in together), "other=x", f"f={number % factor}"]


def test_a_zip_takes_every_kind_of_sweep(loader: ConfigLoader) -> None:
    together = {
        "quantization": "glob([int8,nf4])",
        "seed": "range(2)",
        "task.batch_sizes": "[1,4],[2,8]",
        "+x": "'a,b',c",
    }
    assert expand_grid([], None, [together], loader) == [
        ["quantization=int8", "seed=0", "task.batch_sizes=[1,4]", "+x='a,b'"],
        ["quantization=nf4", "seed=1", "task.batch_sizes=[2,8]", "+x=c"],
    ]


def test_a_zip_of_unequal_lengths_names_keys_and_lengths() -> None:
    error = error_of([], None, [{"z": "1"}, {"model": "a,b", "task.limit": "1,2,3", "seed": "5"}])
    assert (error.code, error.key) == ("mismatch", "hydra.sweeper.zip[1]")
    assert error.reason.endswith("model has 2, task.limit has 3, seed has 1")


@pytest.mark.parametrize("argument", ["seed=3", "+seed=3", "++seed=3,4", "~seed"])
def test_a_command_line_key_in_a_zip_is_refused(argument: str) -> None:
    error = error_of([argument], {"seed": "1"}, [{"seed": "1,2", "task.limit": "3,4"}])
    assert error.code == "conflict"
    assert all(named in error.reason for named in (argument, "hydra.sweeper.zip[0]", "task.limit"))


def test_a_key_may_be_given_in_one_place_only() -> None:
    params, first, second = (f"hydra.sweeper.{place}" for place in ("params", "zip[0]", "zip[1]"))
    for error, places in (
        (error_of([], {"seed": "1"}, [{"seed": "1,2"}]), [params, first]),
        (error_of([], None, [{"a": "1"}, {"a": "1"}]), [first, second]),
        (error_of([], None, [{"a": "1", "+a": "1"}]), [first]),
    ):
        assert error.code == "conflict"
        assert [place for place in (params, first, second) if place in error.reason] == places


# ------------------------------------------------------------------------------------------ what is
# rejected


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("seed=interval(0,1)", "unsupported"),
        ("seed=tag(t,interval(0,1))", "unsupported"),
        ("seed=range(1,5,0)", "bad_value"),
        ("seed=range(1.5,5,0.0)", "bad_value"),
        ("seed=range(5,5)", "empty"),
        ("seed=range(0,inf)", "bad_value"),
        ("seed=range(nan,1)", "bad_value"),
        ("seed=range(0,1000000000000)", "too_large"),
        ("seed=shuffle(range(0,1,1e-12))", "too_large"),
    ],
)
def test_what_has_no_finite_list_is_rejected_wherever_it_is_given(line: str, code: Code) -> None:
    key, _, value = line.partition("=")
    for error in (error_of([line]), error_of([], {key: value}), error_of([], None, [{key: value}])):
        assert (error.code, error.key) == (code, line)


def test_a_glob_that_matches_nothing_names_the_choices(loader: ConfigLoader) -> None:
    with raises(ConfigError, "empty", "quantization=glob(q*)"):
        expand_grid(["quantization=glob(q*)"], None, None, loader)
    with raises(ConfigError, "empty", "task.limit=glob(*)"):
        expand_grid(["task.limit=glob(*)"], None, None, loader)


def test_the_error_about_a_huge_grid_names_its_sizes() -> None:
    error = error_of(["a=range(1000)", "b=range(2000)", "c=1"])
    assert error.code == "too_large"
    assert f"{MAX_JOBS:,}" in error.reason
    assert "1000 (a) x 2000 (b)" in error.reason


def test_the_error_about_unreadable_params_says_where_they_are() -> None:
    for error, place in (
        (error_of([], {"seed": "1,,2"}), "hydra.sweeper.params"),
        (error_of([], None, [{"seed": "'x"}]), "hydra.sweeper.zip[0]"),
    ):
        assert (error.code, error.key) == ("bad_value", place)


# -------------------------------------------------------------------------------------- leaving out

JOB = {
    "quantization": "nf4",
    "model": "stub",
    "seed": "3",
    "task.system": "null",
    "rerun": "True",
    "x": "0.1",
    "t": "a, b",
}


@pytest.mark.parametrize(
    ("rule", "out"),
    [
        ({"quantization": "nf4"}, True),
        ({"quantization": "nf4,fp4"}, True),
        ({"quantization": "int8,fp4"}, False),
        ({"quantization": "nf4", "model": "stub"}, True),
        ({"quantization": "nf4", "model": "auto"}, False),
        ({"quantization": "glob(*4)"}, True),
        ({"quantization": "glob(*,exclude=nf4)"}, False),
        ({"quantization": "choice(nf4)"}, True),
        ({"seed": "range(0,4)"}, True),
        ({"seed": "range(0,3)"}, False),
        ({"seed": "3.0"}, True),
        ({"seed": "'3'"}, True),
        ({"seed": "true"}, False),
        ({"rerun": "true"}, True),
        ({"rerun": "1"}, False),
        ({"x": "1e-1"}, True),
        ({"x": "range(0.1,0.2,0.1)"}, True),
        ({"t": "'a, b'"}, True),
        ({"t": "a,b"}, False),
        ({"task.system": "null"}, True),
        ({"unheard": "null"}, False),
        ({"unheard": "1", "seed": "3"}, False),
        ({}, False),
    ],
)
def test_a_job_is_excluded_when_every_key_of_a_dict_matches(rule: dict[str, str], out: bool) -> None:
    assert is_excluded_by_rules([rule], JOB.get) is out
    assert is_excluded_by_rules([{"model": "auto"}, rule], JOB.get) is out
    assert is_excluded_by_rules([], JOB.get) is False


@pytest.mark.thorough
@settings(max_examples=50)
@given(
    st.lists(st.sampled_from("abcd"), min_size=1, unique=True),
    st.lists(st.integers(0, 9), min_size=1, unique=True),
)
def test_what_is_excluded_are_the_combinations_of_the_sweep_strings(
    words: list[str], numbers: list[int]
) -> None:
    rule = {"w": f"choice({','.join(words)})", "n": f"choice({','.join(map(str, numbers))})"}
    for job in expand_grid(["w=a,b,c,d", "n=range(10)"], None, None, None):
        values = dict(line.split("=") for line in job)
        assert is_excluded_by_rules([rule], values.get) is (
            values["w"] in words and int(values["n"]) in numbers
        )


def test_an_exclude_key_that_no_job_knows_is_named_with_the_nearest() -> None:
    jobs = [JOB.get, {"only_here": "1"}.get]
    check_exclude_keys([{"quantization": "nf4"}, {"only_here": "1", "seed": "99"}], jobs, JOB)
    check_exclude_keys([{"quantisation": "nf4"}], [], JOB)
    with raises(ConfigError, "unknown_choice", "hydra.sweeper.exclude[1].quantisation"):
        check_exclude_keys([{"seed": "1"}, {"quantisation": "nf4"}], jobs, ["quantization", "model"])


@pytest.mark.parametrize(
    ("value", "code", "key"),
    [
        ("interval(0,1)", "unsupported", "seed=interval(0,1)"),
        ("'x", "bad_value", "hydra.sweeper.exclude"),
        ("range(0,inf)", "bad_value", "seed=range(0,inf)"),
        ("range(3,3)", "empty", "seed=range(3,3)"),
    ],
)
def test_an_exclude_value_that_cannot_be_listed_is_refused(value: str, code: Code, key: str) -> None:
    with raises(ConfigError, code, key):
        check_exclude_keys([{"seed": value}], [JOB.get], JOB)


def test_each_case_is_a_grid_of_its_own_and_multiplies_with_the_rest() -> None:
    cases: list[dict[str, Any]] = [
        {"task.mode": "chain,star"},
        {},
        {"task.mode": "debate", "seed": "1,2", "task": {"system": "a, b"}},
    ]
    found = expand_grid(["task.limit=3,4"], {"quantization": "none"}, None, None, cases)
    shown = [[line for line in job if not line.startswith("quantization=none")] for job in found]
    assert all(job[0] == "quantization=none" for job in found)
    in_cases = [["task.mode=chain"], ["task.mode=star"], []]
    in_cases += [["task.mode=debate", f"seed={seed}", "task.system='a, b'"] for seed in (1, 2)]
    assert shown == [[*case, f"task.limit={limit}"] for case in in_cases for limit in (3, 4)]


def test_a_key_of_a_case_is_given_nowhere_else() -> None:
    for arguments, params in ((["seed=3"], None), ([], {"seed": "1"})):
        with raises(ConfigError, "conflict"):
            expand_grid(arguments, params, None, None, [{"seed": "1,2"}, {"task.mode": "chain"}])
    with raises(ConfigError, "bad_value", "hydra.sweeper.cases[1]"):
        expand_grid([], None, None, None, [{}, {"seed": "'x"}])
