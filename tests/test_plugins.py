"""A package of somebody else adds one thing of each kind; no line of the runner knows it."""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from plug_in_packages import EXAMPLE, install_example, write_conf, write_package

from runner_base.result import Sample

pytestmark = pytest.mark.slow
Call = Callable[..., Any]
PACKAGE = "runner-example 1.0"
OWN = """
from dataclasses import dataclass
from runner_engine.quantization.base import QuantizationConfig
@dataclass
class C(QuantizationConfig):
    name = "bare"
"""
STUB = ("model=stub", "task.limit=2", "print=json")


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, installed into a folder of its own."""
    return install_example(tmp_path_factory.mktemp("site"))


@pytest.fixture
def there(example: Path, runner: Call) -> Call:
    """Run the program with the package installed, and with others before it on the path."""

    def call(*arguments: str, before: tuple[Path, ...] = (), **variables: str) -> Any:
        path = os.pathsep.join(map(str, (*before, example)))
        return runner(*arguments, process=True, PYTHONPATH=path, **variables)

    return call


def samples_of(done: Any) -> list[Sample]:
    lines = Path(done.json()["output_dir"], "samples.jsonl").read_text().splitlines()
    return [Sample.from_json(line) for line in lines]


def test_the_page_shows_the_package_as_it_is() -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "plugins.md").read_text()
    blocks = re.findall(r"^```(?:toml|python|yaml)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    files = {
        path.read_text() for path in EXAMPLE.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    }
    assert len(blocks) >= 6
    assert [block for block in blocks if block not in files] == []


@pytest.mark.thorough
def test_all_names_are_known_and_nothing_is_imported(there: Call, tmp_path: Path) -> None:
    """A package that cannot be imported is in the way of nobody who does not use it."""
    points = "[runner.quantizations]\nbroken = of_broken:Config\n[runner.metrics]\nbroken = of_broken:M\n"
    broken = write_package(tmp_path / "site", "broken-one", points, of_broken="raise SystemError('imported')")
    write_conf(
        broken,
        "of_broken",
        {
            "quantization/broken.yaml": "# Broken.\ndefaults: [/hydra/schema/quantization/broken@_here_, _self_]\n"
        },
    )
    shown = there("print=full", "--help", before=(broken,))
    assert (shown.code, shown.err) == (0, "")
    groups = {line.partition(": ")[0]: line.partition(": ")[2].split(", ") for line in shown.out.splitlines()}
    assert {"absmax", "broken", "nf4"} <= {*groups["quantization"]}
    assert "words" in groups["task"]
    assert "backwards" in groups["model"]
    assert "Data sets: aime_2024, aime_2025, colours, embedded" in re.sub(r"\s+#?\s*", " ", shown.out)
    listed = " ".join(shown.out.partition("From plug-ins")[2].split())
    assert (
        f"{PACKAGE}: dataset colours, metric answer_words, metric words, model backwards, quantization absmax"
        in listed
    )
    assert "broken-one 2.0: metric broken, quantization broken" in listed
    plain = there(*STUB, before=(broken,))
    assert (plain.code, "SystemError" in plain.err) == (0, False)
    used = there("quantization=broken", "plan=true", before=(broken,))
    assert used.code == 2
    assert used.err.strip() == (
        "error: quantization broken of broken-one 2.0: importing of_broken:Config failed (SystemError: imported)"
    )
    used = there(*STUB, "metrics=[broken]", before=(broken,))
    assert (used.code, used.err.count("\n")) == (2, 1)
    assert "metric broken of broken-one 2.0: importing of_broken:M failed (SystemError: imported)" in used.err


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("line", "offered"),
    [("quantization=abs", "quantization=absmax"), ("-m task=gsm8k,wo", "task=gsm8k,words"), ("task.data=col", "task.data=colours"),
     ("quantization=absmax quantization.bi", "quantization.bits="), ("task.scorer=l", "task.scorer=last_word")],
)  # fmt: skip
def test_tab_completion(there: Call, line: str, offered: str) -> None:
    done = there("-sc", "query=bash", COMP_LINE=f"runner {line}", COMP_POINT=str(len(line) + 7))
    assert (done.code, done.out.split()) == (0, [offered])


@pytest.mark.thorough
def test_config_plan_and_wrong_names(there: Call) -> None:
    shown = there("quantization=absmax", "--cfg", "job")
    assert shown.code == 0
    assert (
        "quantization:\n  skip: []\n  overrides: {}\n  allow_partial: false\n  bits: 4\n  group_size: 64\n"
        in shown.out
    )
    described = there("quantization=absmax", "--help").out
    assert "quantization=absmax: Integers around zero, in groups of inputs." in described
    assert "quantization.group_size=64            # so many inputs share a scale" in described
    planned = there("quantization=absmax", "task.limit=2", "plan=quick")
    assert (planned.code, "1 job: 1 to do" in planned.out) == (0, True)
    for words, parts in {
        ("quantization=absmx",): ("unknown choice. Did you mean absmax?", f"absmax is from {PACKAGE}"),
        ("quantization=absmax", "quantization.bits=7"): ("quantization.bits=7: must be one of 2, 3",),
        ("quantization=absmax", "quantization.bit=4"): ("Did you mean quantization.bits?",),
        ("task=words", "model=stub"): ("task.prompt has no value. Give task.prompt=VALUE",),
        ("task=words", "model=stub", "task.prompt= "): ("task.prompt", "give what to ask"),
        ("task.data=colors",): ("no data set 'colors'. Did you mean colours?",),
        ("task.scorer=lastword",): ("task.scorer=lastword: no scorer 'lastword'. Did you mean last_word?",),
        ("task.scorer=last_word", "task.extractor=boxed"): ("task.extractor=boxed: this key needs answers that are numbers or letters. Omit this key or task.scorer=last_word",),
        ("metrics=[answer_word]",): ("metrics=answer_word: no metric 'answer_word'. Did you mean answer_words?",),
        ("metrics=[words]",): ("metrics=words: this metric cannot be computed from samples; a task computes it",),
        ("metrics=[answer_words]", "task=sweep"): ("task=sweep saves no samples",),
    }.items():  # fmt: skip
        done = there(*words)
        assert (done.code, done.err.count("\n")) == (2, 1), done.err
        for part in parts:
            assert part in done.err


@pytest.mark.thorough
def test_a_quantization_and_a_metric_in_a_grid(there: Call, runner: Call, tmp_path: Path) -> None:
    """In the workers of a grid, whose configs come from another process, beside choices of the
    runner."""
    done = there(
        "-m",
        "quantization=none,absmax",
        "task.limit=20",
        "metrics=[answer_words]",
        "generation.max_new_tokens=40",
    )
    assert done.code == 0, done.err
    assert "words an answer" in done.out
    table = {line.split()[0]: line for line in done.out.splitlines() if " gsm8k-" in line}
    assert {*table} == {"none", "absmax"}
    with closing(sqlite3.connect(tmp_path / "outputs" / "mlflow.db")) as database:
        params = dict(
            database.execute("SELECT value, run_uuid FROM params WHERE key = 'quantization.package'")
        )
        metrics = database.execute("SELECT value FROM metrics WHERE key = 'answer_words'").fetchall()
        facts = [row[0] for row in database.execute("SELECT value FROM tags WHERE key = 'fact.plug_ins'")]
    assert [*params] == [PACKAGE]
    assert len(metrics) == 2
    assert all(5 < value < 40 for (value,) in metrics)
    assert sorted(facts) == [
        f"metrics: answer_words of {PACKAGE}",
        f"quantization: {PACKAGE}, metrics: answer_words of {PACKAGE}",
    ]
    # the same questions without the metric: other results, the same answers
    again = there("quantization=absmax", "task.limit=20", "generation.max_new_tokens=40", "print=json")
    assert again.code == 0
    assert "answer_words" not in again.json()["metrics"]
    assert all(sample.reused_from for sample in samples_of(again))
    # a mix, and a package that is gone: a reader of its records goes on
    mixed = there("quantization.overrides={down_proj: absmax}", "task.limit=2", "plan=quick")
    assert (mixed.code, "1 job: 1 to do" in mixed.out) == (0, True)
    gone = runner("quantization=absmax", process=True)
    assert (gone.code, "unknown choice" in gone.err) == (2, True)
    compared = runner("--format", "json", module="runner_compare", process=True)
    assert compared.code == 0, compared.err


@pytest.mark.thorough
def test_a_task_and_a_model(there: Call) -> None:
    # a comma is just a comma
    done = there("model=backwards", "task=words", "task.prompt=Hello, dear world", "print=json")
    assert done.code == 0, done.err
    assert done.json()["metrics"]["words"] == 3
    assert samples_of(done)[0].answer.text == "dlrow raed ,olleH"
    shouted = there("model=backwards", "model.shout=true", "task=words", "task.prompt=Hi", "print=json")
    assert samples_of(shouted)[0].answer.text == "IH"


@pytest.mark.thorough
def test_a_data_set_and_a_scorer(there: Call, tmp_path: Path) -> None:
    """The model says a question backwards, so the right answers are known: `der` is red, and `eulb`
    is blue."""
    asked = ("model=backwards", "task.prompt=text", "task.template={question}", "print=json")
    done = there(*asked, "task.data=colours")
    assert done.code == 0, done.err
    rows = samples_of(done)
    assert [(row.gold, row.answer.verdict) for row in rows] == [
        ("blue", "wrong"),
        ("green", "wrong"),
        ("red", "wrong"),
    ]
    rows_here = [("eulb si ti", "Blue."), ("der ti si", "It is red"), ("?", "green"), ("neerg", "red")]
    file = tmp_path / "reversed.jsonl"
    file.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in rows_here))
    done = there(*asked, f"task.data={file}", "task.scorer=last_word")
    rows = samples_of(done)
    assert [(row.answer.extracted, row.answer.verdict) for row in rows] == [
        ({"last_word": "blue"}, "correct"), ({"last_word": "red"}, "correct"),
        ({"last_word": None}, "no_answer"), ({"last_word": "green"}, "wrong"),
    ]  # fmt: skip
    metrics = done.json()["metrics"]
    assert (metrics["correct"], metrics["n"], metrics["accuracy/last_word"]) == (2, 4, 0.5)
    assert "extractors_differ" not in metrics
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"question": "x", "answer": "42"}\n')
    done = there(*asked, f"task.data={bad}", "task.scorer=last_word")
    assert done.code == 2
    assert (
        "line 1: no answer found in '42' (a record needs a question and an answer that task.scorer=last_word can read"
        in done.err
    )


@pytest.mark.thorough
def test_the_version_counts_in_the_id_of_jobs_that_use_it(
    there: Call, runner: Call, example: Path, tmp_path: Path
) -> None:
    """And in no other: a job without a plug-in has one id whatever is installed."""
    newer = tmp_path / "newer"
    newer.mkdir()
    (about,) = example.glob("*.dist-info")
    copy = newer / "runner_example-2.0.dist-info"
    copy.mkdir()
    (copy / "METADATA").write_text((about / "METADATA").read_text().replace("Version: 1.0", "Version: 2.0"))
    (copy / "entry_points.txt").write_text((about / "entry_points.txt").read_text())

    def ids(*arguments: str) -> list[str]:
        old, new = (there(*arguments, "print=json", before=before) for before in ((), (newer,)))
        return [old.json()["job_id"], new.json()["job_id"]]

    with_metric, with_task = (
        ids(*STUB, "metrics=[answer_words]"),
        ids("model=stub", "task=words", "task.prompt=x"),
    )
    assert with_metric[0] != with_metric[1]
    assert with_task[0] != with_task[1]
    without = ids(*STUB)
    assert without[0] == without[1] == runner(*STUB).json()["job_id"]
    assert without[0] not in with_metric


@pytest.mark.thorough
def test_packages_that_collide_or_lack_a_file(there: Call, tmp_path: Path) -> None:
    points = "[runner.quantizations]\nabsmax = of_rival:C\nnf4 = of_rival:C\nalone = of_rival:C\nbare = of_rival:C\n"
    rival = write_package(tmp_path / "site", "rival", points, of_rival=OWN)
    write_conf(
        rival,
        "of_rival",
        {"quantization/nf4.yaml": "# Not the runner's.\nbits: 99\n", "quantization/bare.yaml": "# None.\n"},
    )
    done = there("quantization=absmax", "plan=true", before=(rival,))
    assert done.code == 2
    assert "provides a quantization with the same name. Uninstall one of the packages" in done.err
    done = there("quantization=nf4", "plan=quick", "task.limit=2", before=(rival,))
    assert done.code == 0
    assert (
        "warning: quantization nf4 of rival 2.0 is ignored, because the runner already has quantization=nf4"
        in done.err
    )
    done = there("quantization=alone", "plan=true", before=(rival,))
    assert (
        done.err.strip()
        == "error: quantization alone of rival 2.0: its package lacks the file conf/quantization/alone.yaml"
    )
    assert done.code == 2
    # it would run as quantization=none
    done = there("quantization=bare", "plan=true", before=(rival,))
    assert (
        done.err.strip()
        == "error: quantization bare of rival 2.0: its YAML file must begin with its schema. See docs/plugins.md"
    )
    assert done.code == 2


@pytest.mark.thorough
def test_a_metric_that_fails_is_a_problem_and_keeps_the_rest(there: Call, tmp_path: Path) -> None:
    module = (
        "from runner_compare.metrics import Metric\n"
        "BAD = Metric('bad', 'bad', of_samples=lambda samples: 1 / 0)\n"
        "NAN = Metric('nan_one', 'nan', of_samples=lambda samples: float('nan'))\n"
        "ACCURACY = Metric('accuracy', 'mine', of_samples=len)\n"
    )
    points = (
        "[runner.metrics]\nbad = of_metrics:BAD\nnan_one = of_metrics:NAN\naccuracy = of_metrics:ACCURACY\n"
    )
    site = write_package(tmp_path / "site", "bad-metrics", points, of_metrics=module)
    done = there(*STUB, "metrics=[bad,answer_words,nan_one]", before=(site,))
    assert done.code == 1
    assert "metric bad of bad-metrics 2.0 failed (ZeroDivisionError: division by zero)" in done.err
    assert "metric nan_one of bad-metrics 2.0 is nan" in done.err
    assert {"accuracy", "answer_words"} <= {*done.json()["metrics"]}
    done = there(*STUB, "metrics=[accuracy]", before=(site,))
    assert (done.code, "metrics=accuracy: the runner already has a metric with this name" in done.err) == (
        2,
        True,
    )


@pytest.mark.sampled(1)
@pytest.mark.parametrize("grid", [(), ("-m", "seed=1,2")])
def test_code_that_calls_exit_is_an_error_with_its_place(
    there: Call, tmp_path: Path, grid: tuple[str, ...]
) -> None:
    module = "import sys\nfrom runner_compare.metrics import Metric\n{}\n"
    points = (
        "[runner.metrics]\nleaving = leaving_{0}:LEAVING\n[runner.scorers]\nleaving = leaving_{0}:LEAVING\n"
    )
    late = "LEAVING = Metric('leaving', 'l', of_samples=lambda samples: sys.exit(7))"
    for name, code, said in (
        ("early", "sys.exit(7)", "importing leaving_early:LEAVING failed (SystemExit: 7)"),
        ("late", late, "sys.exit(7)"),
    ):
        modules = {f"leaving_{name}": module.format(code)}
        site = write_package(tmp_path / name, f"leaving-{name}", points.format(name), **modules)
        done = there(*STUB, *grid, "tracking=none", "metrics=[leaving]", before=(site,))
        assert done.code in (1, 2), done.err
        assert said in done.err
        assert "Traceback" not in done.err


@pytest.mark.thorough
def test_a_group_that_nothing_reads_is_named_with_the_one_that_is_meant(runner: Call, tmp_path: Path) -> None:
    entry_points = "[runner.sections]\nbars = mine:SECTION\n[runner_of_mine]\na = mine:A\n"
    site = write_package(tmp_path / "site", "mine", entry_points)
    logs = Path(__file__).parent / "data" / "inspect_ai"
    paths = [str(logs / name) for name in ("none", "nf4")]
    done = runner("--results", *paths, module="runner_compare", process=True, PYTHONPATH=str(site))
    assert done.code == 0
    assert done.err.startswith(
        "note: mine 2.0: entry points of runner.sections are ignored: no group of entry points "
        "'runner.sections'. Did you mean runner_compare.sections?"
    )
    assert "runner_of_mine" not in done.err
