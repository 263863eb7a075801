"""--where as an expression: the runs it selects, and its error messages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from raising import raises

from runner_base.errors import Code, ConfigError
from runner_compare.model.data import Run
from runner_compare.model.selection import EXPRESSION, filter_runs


def run(job: str, quantization: str, seed: int, accuracy: float, **params: str) -> Run:
    params = {"quantization.name": quantization, "seed": str(seed), "task.name": "gsm8k", **params}
    return Run(f"id-{job}", job, "gsm8k", "1", "", params, {"accuracy": accuracy, "n": 200})


RUNS = [
    run("a", "none", 0, 0.9),
    run("b", "nf4", 0, 0.8, **{"quantization.double_quant": "true"}),
    run("c", "nf4", 10, 0.7, **{"quantization.double_quant": "false"}),
    run("d", "int8", 2, 0.85, **{"lora.path": "/a b/c (1)"}),
]


@pytest.mark.parametrize(
    ("text", "jobs"),
    [
        ("quantization.name='nf4'", "bc"),
        ('quantization="nf4"', "bc"),
        ("params.quantization.name = 'nf4'", "bc"),
        ("quantization='nf4' and seed=0", "b"),
        ("quantization='none' or quantization='nf4' and seed=0", "ab"),  # and binds closer
        ("(quantization='none' or quantization='nf4') and seed=0", "ab"),
        ("not quantization='nf4'", "ad"),
        ("not (quantization='nf4' or seed=2)", "a"),
        ("quantization != 'nf4'", "ad"),
        # a run without the key does not have that value
        ("quantization.double_quant != 'true'", "acd"),
        ("quantization.double_quant = 'true'", "b"),
        ("quantization in ('nf4', \"int8\")", "bcd"),
        ("quantization not in (nf4, int8)", "a"),
        ("seed < 10", "abd"),  # as numbers: as texts, 10 would come before 2
        ("seed >= 2", "cd"),
        ("seed = 0.0", "ab"),
        ("accuracy > 0.8", "ad"),
        ("metrics.accuracy <= .8 and n = 200", "bc"),
        ("job_id in ('a', 'c')", "ac"),
        ("run_id = 'id-d'", "d"),
        ("task = 'gsm8k' AND seed == 10", "c"),
        ("lora.path = '/a b/c (1)'", "d"),
        ("quantization=nf4,seed=0", "b"),  # the other form
        ("quantization=nf4", "bc"),
        ("lora.path=/a b/c (1)", "d"),
    ],
)
def test_it_picks(text: str, jobs: str) -> None:
    assert "".join(run.job_id for run in filter_runs(RUNS, text)) == jobs


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("quantisation = 'nf4'", "unknown_choice"),
        ("acuracy > 0.8", "unknown_choice"),
        ("quantization = 'fp4'", "not_found"),
        ("accuracy > 0.95 and quantization='nf4'", "not_found"),
        ("seed < many", "bad_value"),
        ("seed ~ 3 and n=1", "bad_value"),
        ("seed = 0 quantization = 'nf4'", "bad_value"),
        ("(seed = 0", "bad_value"),
        ("seed in 0, 1", "bad_value"),
        ("quantization = 'nf4", "bad_value"),
        ("seed = ", "bad_value"),
        ("nf4", "bad_value"),
    ],
)
def test_mistakes_are_named(text: str, code: Code) -> None:
    with raises(ConfigError, code, "--where") as failure:
        filter_runs(RUNS, text)
    assert failure.value.value == text


leaves = st.builds(
    "{} {} {}".format, st.just("seed"), st.sampled_from(["=", "!=", "<", "<=", ">", ">="]), st.integers(0, 3)
)


@given(
    st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.builds("({} and {})".format, inner, inner),
            st.builds("{} or {}".format, inner, inner),
            st.builds("{} and {}".format, inner, inner),
            st.builds("not ({})".format, inner),
        ),
        max_leaves=6,
    )
)
def test_it_means_what_python_means(text: str) -> None:
    runs = [run(str(seed), "none", seed, 0.5) for seed in range(4)]
    expected = [
        one.job_id for one in runs if eval(text.replace(" = ", " == "), {"seed": int(one.params["seed"])})
    ]
    assert EXPRESSION.search(text)
    if expected:
        assert [one.job_id for one in filter_runs(runs, text)] == expected
    else:
        with raises(ConfigError, "not_found", "--where"):
            filter_runs(runs, text)
