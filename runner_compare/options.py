"""Command-line options of `runner-compare`, with their help."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

from runner_base import ConfigError
from runner_base.command_line import CommandParser
from runner_compare.readers.tools import supported_tools
from runner_compare.render.output import FORMATS
from runner_compare.statistics.pooling import PoolingWeights

WIDTH = 100
PAIRS = "KEY=VALUE[,KEY=VALUE]"
LLAMA = "llama"  # the format of llama.cpp's llama-perplexity
# an option: what it does, and which others therefore do not go with it; the first that is given is
# named
APART = {
    "files": (
        "--files has a line for each model file",
        ("lm_eval", "results", "flips", "by", "pool", "plan_questions", "metric"),
    ),
    "publish": (
        "--publish writes what jobs of the runner have recorded",
        ("lm_eval", "results", "flips", "files"),
    ),
    "seeds": (
        "--seeds makes one row of all seeds of a configuration",
        ("by", "flips", "files", "metric", "lm_eval", "results", "unpaired"),
    ),
    "across_tools": (
        "--across-tools pairs questions with those of the first path",
        ("lm_eval", "by", "baseline", "metric", "pool", "seeds", "unpaired", "flips", "files"),
    ),
    "flips": (
        "--flips A B compares two runs, A being the baseline",
        ("baseline", "by", "unpaired", "pool", "require", "plan_questions"),
    ),
}


def create_parser() -> argparse.ArgumentParser:
    about = "Compare recorded jobs: a table with differences to a baseline, and which of them are shown."
    epilog = """examples:
  runner-compare --baseline quantization=none --margin 2
  runner-compare --grid last --baseline quantization=none --save comparison --log
  runner-compare --where "quantization.name in ('none', 'nf4')" --baseline quantization=none
  runner-compare --flips quantization=none,task.split=test quantization=nf4,task.split=test
  runner-compare --baseline quantization=none --plan-questions margin=2
  runner-compare --baseline quantization=none --require 'margin=2 model_mib<4000'
  runner-compare --results logs/a.eval logs/b.eval"""
    arguments = CommandParser(
        "runner-compare",
        usage="runner-compare [--baseline KEY=VALUE] [OPTION ...]",
        description=about,
        epilog=epilog,
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, max_help_position=26, width=WIDTH),
        allow_abbrev=False,
    )
    _add_common_options(arguments.add_argument_group("most used").add_argument)
    _add_source_options(
        arguments.add_argument_group(
            "which results (default: the newest finished run of each job that is comparable with the newest)"
        ).add_argument
    )
    _add_method_options(arguments.add_argument_group("how to compare").add_argument)
    _add_report_options(arguments.add_argument_group("other reports").add_argument)
    return arguments


def _add_common_options(add: Callable[..., object]) -> None:
    add(
        "--baseline",
        default="",
        metavar=PAIRS,
        help="compare all other runs with the runs that have these values, e.g. quantization=none",
    )
    add(
        "--margin",
        action="append",
        default=[],
        metavar="LOSS",
        help="the loss that you accept: 2 (points of accuracy), 0.01nats (per token of likelihood) or 5%% (speed, "
        "time, memory); once for each kind",
    )
    add("--grid", metavar="ID|last", help="only the jobs of this grid: its MLflow run id, or the last one")
    add(
        "--where",
        action="append",
        default=[],
        metavar="FILTER",
        help=f"only runs with these values: {PAIRS}, or an expression over keys and metrics: "
        "\"quantization.name='nf4' and accuracy > 0.9\" (and, or, not, in, = != < <= > >=)",
    )
    add("--save", metavar="FOLDER", help="write comparison.html, .md, .csv, .json and plots to this folder")
    add(
        "--format",
        default="table",
        choices=[*FORMATS, LLAMA],
        help="how to print (default: %(default)s); llama: as llama-perplexity --kl-divergence, for task=likelihood "
        "with task.exact=true",
    )
    add(
        "--explain",
        action="store_true",
        help="also print each finding with its figures, the Pareto front, and how everything is decided",
    )
    add(
        "--columns",
        default="short",
        choices=["short", "all"],
        help="all prints every column and table, wider than 100 characters (default: %(default)s)",
    )
    add("--plot", action="store_true", help="also draw the differences with their intervals")


def _add_source_options(add: Callable[..., object]) -> None:
    add("--output-dir", default="outputs", help="the folder with mlflow.db (default: %(default)s)")
    add(
        "--tracking-uri",
        help="another MLflow store (default: MLFLOW_TRACKING_URI, else mlflow.db in --output-dir)",
    )
    add("--experiment", help="the MLflow experiment (default: MLFLOW_EXPERIMENT_NAME, else runner)")
    add("--task", help="only this task, e.g. gsm8k (default: a table for each task)")
    add("--runs", nargs="+", default=[], metavar="ID", help="only these job ids or MLflow run ids")
    add(
        "--all",
        action="store_true",
        help="also jobs with other questions or prompts than the newest grid or job",
    )
    add(
        "--results",
        nargs="+",
        default=[],
        metavar="PATH",
        help="read files or folders of other tools instead of MLflow: "
        f"{supported_tools()}. The first is the baseline, unless "
        "--baseline or --by is given",
    )
    add(
        "--lm-eval",
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="read folders that lm-evaluation-harness wrote with --output_path FOLDER --log_samples. The first is the "
        "baseline, unless --baseline or --by is given",
    )
    add(
        "--across-tools",
        action="store_true",
        help="with --results: pair questions of different tools by their text, and report what else differs",
    )


def _add_method_options(add: Callable[..., object]) -> None:
    add(
        "--by",
        default="",
        metavar="KEY[,KEY]",
        help="a table row for each combination of these keys; other runs (e.g. splits) are pooled",
    )
    add(
        "--pool",
        nargs="?",
        const=PoolingWeights.questions.value,
        choices=[weight.value for weight in PoolingWeights],
        help="also give one verdict over all tasks, splits and data sets: equal weight for each question (default) or "
        "each task",
    )
    add(
        "--seeds",
        action="store_true",
        help="runs that differ only in the seed are one table row: their mean, with intervals over questions and seeds",
    )
    add(
        "--metric",
        default="",
        metavar="NAME",
        help="compare this instead of accuracy: new_tokens, thinking_tokens, answer_tokens, characters, cost_usd, "
        "pass@4, maj@4, pass^4, or a metric of other tools' files",
    )
    add(
        "--cluster",
        default="",
        metavar="FIELD",
        help="questions with the same value of this field are one cluster: task.cluster of the jobs, or a field of "
        "other tools' documents",
    )
    add(
        "--ignore",
        default="",
        metavar="KEY[,KEY]",
        help="with --baseline: runs may differ from their baseline in these keys, e.g. model.revision",
    )
    add(
        "--unpaired",
        action="store_true",
        help="also compare runs with other questions, prompts or scoring, by Fisher's exact test",
    )
    add(
        "--count-errors",
        action="store_true",
        help="also compare jobs in which questions ended in an error: these count as not solved",
    )
    add(
        "--teams",
        action="store_true",
        help='name jobs of task=agents by their team, so that --baseline "team=one agent" works for all of them',
    )
    add(
        "--recall-margin",
        metavar="POINTS",
        help="task=recall: accepted loss against the shortest length (default: task.margin of the jobs, or 10)",
    )
    add(
        "--tolerance",
        type=float,
        metavar="PERCENT",
        help="Pareto front: differences in speed that count as noise (default: measured; fewer than 3 runs of a job: "
        "speed is left out)",
    )


def _add_report_options(add: Callable[..., object]) -> None:
    add(
        "--flips",
        nargs=2,
        metavar=("A", "B"),
        help="show the questions that only one of two runs solved; A (the baseline) and B: an id or a filter",
    )
    add(
        "--plan-questions",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="how many questions you need: margin=2 (to show a loss of at most 2 points), detect=3 (to detect 3 "
        "points); power=0.8",
    )
    add(
        "--require",
        action="append",
        default=[],
        metavar="TERMS",
        help="exit with 1 if a run fails a term: margin=2, finding!=worse, or a metric by its interval: "
        "'model_mib<4000 accuracy>=0.8 kl_p95<0.5nats'",
    )
    add(
        "--files",
        action="store_true",
        help="a table with a row for each model file: size, memory, speed, KL, likelihood and accuracy "
        "(experiments/which_file.yaml)",
    )
    add("--log", action="store_true", help="log the files of --save to the grid's MLflow run, as comparison/")
    add(
        "--publish",
        metavar="FOLDER",
        help="write a section for a model card, .eval_results/*.yaml, and divergence.md; nothing is uploaded",
    )
    add(
        "--benchmark",
        default="",
        metavar="DATASET_ID:TASK_ID",
        help="with --publish: the benchmark on the Hub (default: task.data and task.subset)",
    )


def command_with_sources(options: argparse.Namespace) -> tuple[str, ...]:
    """Return the command with the options that select which runs it reads."""
    words = ["runner-compare"]
    if options.output_dir != "outputs":
        words += ["--output-dir", options.output_dir]
    for name in ("tracking_uri", "experiment", "lm_eval", "results", "across_tools", "all", "task", "grid",
                 "runs", "where", "cluster"):  # fmt: skip
        value = getattr(options, name)
        option = f"--{name.replace('_', '-')}"
        if name == "where":
            words += [word for text in value for word in (option, text)]
        elif value:
            words += [option, *([] if value is True else value if isinstance(value, list) else [value])]
    return tuple(words)


def check_option_combinations(options: argparse.Namespace) -> None:
    """Raise ConfigError for options that conflict or that need another option."""
    reject_conflicting_options(options, "files")
    if options.benchmark and not options.publish:
        raise ConfigError(
            "it names what --publish writes: add --publish FOLDER",
            key="--benchmark",
            value=options.benchmark,
            code="missing",
        )
    for name in ("publish", "seeds", "across_tools"):
        reject_conflicting_options(options, name)
    if options.across_tools and not options.results:
        raise ConfigError(
            "--across-tools pairs the files of several tools: give them to --results", code="missing"
        )


def reject_conflicting_options(options: argparse.Namespace, name: str) -> None:
    """Raise ConfigError if the named option and one that conflicts with it are both set."""
    what, others = APART[name]
    if getattr(options, name) and (option := find_first_set_option(options, *others)):
        raise ConfigError(f"leave out {option}", key=what, code="conflict")


def find_first_set_option(options: argparse.Namespace, *names: str) -> str:
    """Return the first of several options that is set, as on the command line; "" if none is."""
    return next((f"--{name.replace('_', '-')}" for name in names if getattr(options, name)), "")
