"""Command-line options of `runner-compare`, with their help."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

from runner_base import ConfigError
from runner_base.command_line import CommandParser
from runner_compare.readers.tools import format_supported_tools
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
        ("lm_eval", "results", "flips", "by", "pool", "plan_questions", "metric", "card"),
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
        ("baseline", "by", "unpaired", "pool", "require", "plan_questions", "card"),
    ),
}


def create_parser() -> argparse.ArgumentParser:
    about = "Compare recorded jobs with a baseline, and test which differences are significant."
    epilog = """examples:
  runner-compare --baseline quantization=none --margin 2
  runner-compare --grid last --baseline quantization=none --save comparison --log
  runner-compare --where "quantization.name in ('none', 'nf4')" --baseline quantization=none
  runner-compare --flips quantization=none,task.split=test quantization=nf4,task.split=test
  runner-compare --baseline quantization=none --plan-questions margin=2
  runner-compare --baseline quantization=none --require 'margin=2 model_mib<4000'
  runner-compare --results logs/a.eval logs/b.eval

release gate (runner-compare gate --help, runner-compare pack --help):
  runner-compare pack quantization=none -o baseline.runner.gz
  runner-compare gate baseline.runner.gz outputs --margin 2"""
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
            "selection of runs (default: the newest run, and the newest comparable run of each other job)"
        ).add_argument
    )
    _add_comparison_method_options(arguments.add_argument_group("how to compare").add_argument)
    _add_report_options(arguments.add_argument_group("other reports").add_argument)
    return arguments


def _add_common_options(add_argument: Callable[..., object]) -> None:
    add_argument(
        "--baseline",
        default="",
        metavar=PAIRS,
        help="config values of the baseline runs, e.g. quantization=none",
    )
    add_argument(
        "--margin",
        action="append",
        default=[],
        metavar="LOSS",
        help="maximum acceptable loss: 2 (points of accuracy), 0.01nats "
        "(likelihood per token) or 5%% (speed, time, "
        "memory). Repeat the option for several measures",
    )
    add_argument(
        "--grid", metavar="ID|last", help="compare only the jobs of one grid: its MLflow run id, or `last`"
    )
    add_argument(
        "--where",
        action="append",
        default=[],
        metavar="FILTER",
        help=f"only runs with these values: {PAIRS}, or an expression over keys and metrics: "
        "\"quantization.name='nf4' and accuracy > 0.9\" (and, or, not, in, = != < <= > >=)",
    )
    add_argument(
        "--save", metavar="FOLDER", help="write comparison.html, .md, .csv, .json and plots to this folder"
    )
    add_argument(
        "--format",
        default="table",
        choices=[*FORMATS, LLAMA],
        help="output format (default: %(default)s). llama: like llama-perplexity --kl-divergence, for "
        "task=likelihood with task.exact=true",
    )
    add_argument(
        "--explain",
        action="store_true",
        help="also print all statistics, the Pareto front and the test methods",
    )
    add_argument(
        "--columns",
        default="short",
        choices=["short", "all"],
        help="columns and tables to print. `all` may exceed 100 characters per line (default: %(default)s)",
    )
    add_argument("--plot", action="store_true", help="also draw the differences with their intervals")


def _add_source_options(add_argument: Callable[..., object]) -> None:
    add_argument("--output-dir", default="outputs", help="the folder with mlflow.db (default: %(default)s)")
    add_argument(
        "--tracking-uri",
        help="another MLflow store (default: MLFLOW_TRACKING_URI, else mlflow.db in --output-dir)",
    )
    add_argument("--experiment", help="the MLflow experiment (default: MLFLOW_EXPERIMENT_NAME, else runner)")
    add_argument("--task", help="only this task, e.g. gsm8k (default: a table for each task)")
    add_argument("--runs", nargs="+", default=[], metavar="ID", help="only these job ids or MLflow run ids")
    add_argument(
        "--all",
        action="store_true",
        help="include jobs whose questions or prompts differ from those of the newest grid or job",
    )
    add_argument(
        "--results",
        nargs="+",
        default=[],
        metavar="PATH",
        help="read files or folders of other tools instead of MLflow: "
        f"{format_supported_tools()}. The first path is the baseline, unless "
        "--baseline or --by is set",
    )
    add_argument(
        "--lm-eval",
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="read folders that lm-evaluation-harness wrote with --output_path FOLDER --log_samples. The first is the "
        "baseline, unless --baseline or --by is given",
    )
    add_argument(
        "--across-tools",
        action="store_true",
        help="with --results: match questions of different tools by text, and list differing settings",
    )


def _add_comparison_method_options(add_argument: Callable[..., object]) -> None:
    add_argument(
        "--by",
        default="",
        metavar="KEY[,KEY]",
        help="show one table row per combination of these keys. Runs that differ in other keys are pooled",
    )
    add_argument(
        "--pool",
        nargs="?",
        const=PoolingWeights.questions.value,
        choices=[weight.value for weight in PoolingWeights],
        help="pool the comparisons of all tasks, splits and data sets. "
        "`questions` (default): each question has equal weight. `tasks`: each task has equal weight",
    )
    add_argument(
        "--seeds",
        action="store_true",
        help="pool runs that differ only in the seed. Intervals then include the variation between seeds",
    )
    add_argument(
        "--metric",
        default="",
        metavar="NAME",
        help="metric to compare instead of accuracy, e.g. new_tokens, thinking_tokens, answer_tokens, "
        "characters, cost_usd, pass@4, maj@4, pass^4, or a metric in other tools' files",
    )
    add_argument(
        "--cluster",
        default="",
        metavar="FIELD",
        help="field whose equal values define a cluster of questions: "
        "task.cluster of the jobs, or a field in other "
        "tools' documents",
    )
    add_argument(
        "--ignore",
        default="",
        metavar="KEY[,KEY]",
        help="with --baseline: additional keys in which runs may differ from the baseline, e.g. model.revision",
    )
    add_argument(
        "--unpaired",
        action="store_true",
        help="also compare runs with different questions, prompts or scoring, using Fisher's exact test",
    )
    add_argument(
        "--count-errors",
        action="store_true",
        help="also compare jobs in which questions failed with an error. These questions count as not solved",
    )
    add_argument(
        "--teams",
        action="store_true",
        help='add a key `team` to task=agents jobs, for use in --baseline "team=one agent"',
    )
    add_argument(
        "--recall-margin",
        metavar="POINTS",
        help="task=recall: maximum acceptable loss of recall compared with the shortest length "
        "(default: task.margin of the jobs, or 10)",
    )
    add_argument(
        "--tolerance",
        type=float,
        metavar="PERCENT",
        help="Pareto front: ignore smaller differences in speed (default: "
        "estimated from at least 3 runs per job; with fewer runs, speed is ignored)",
    )


def _add_report_options(add_argument: Callable[..., object]) -> None:
    add_argument(
        "--flips",
        nargs=2,
        metavar=("A", "B"),
        help="list the questions that only one of two runs solved. A is the baseline. "
        "A and B are ids or filters",
    )
    add_argument(
        "--plan-questions",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="compute the required number of questions. margin=2: to show a loss of at most 2 points. "
        "detect=3: to detect a difference of 3 points. power=0.8: statistical power",
    )
    add_argument(
        "--require",
        action="append",
        default=[],
        metavar="TERMS",
        help="exit with 1 if a run fails a term: margin=2, finding!=worse, or a metric by its interval: "
        "'model_mib<4000 accuracy>=0.8 kl_p95<0.5nats'",
    )
    add_argument(
        "--card",
        action="append",
        default=[],
        metavar="FILE",
        help="also compute the recovery (accuracy divided by the baseline's accuracy), per task and pooled, and write "
        "it to one offline .html or .png file. Repeat the option to write both",
    )
    add_argument(
        "--files",
        action="store_true",
        help="show one table row per model file: size, memory, speed, KL divergence, likelihood and accuracy "
        "(see experiments/which_file.yaml)",
    )
    add_argument(
        "--log",
        action="store_true",
        help="log the files of --save as artifacts (comparison/) of the grid's MLflow run",
    )
    add_argument(
        "--publish",
        metavar="FOLDER",
        help="write files for the Hugging Face Hub (model-card section, .eval_results/*.yaml, divergence.md)",
    )
    add_argument(
        "--benchmark",
        default="",
        metavar="DATASET_ID:TASK_ID",
        help="with --publish: benchmark id on the Hugging Face Hub (default: task.data and task.subset)",
    )


def build_command_with_source_options(options: argparse.Namespace) -> tuple[str, ...]:
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
            "--benchmark requires --publish. Add --publish FOLDER",
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


def reject_conflicting_options(options: argparse.Namespace, option_name: str) -> None:
    """Raise ConfigError if an option is set together with an option that it excludes."""
    what, others = APART[option_name]
    if getattr(options, option_name) and (option := find_first_set_option(options, *others)):
        raise ConfigError(f"leave out {option}", key=what, code="conflict")


def find_first_set_option(options: argparse.Namespace, *names: str) -> str:
    """Return the first option that is set, as written on the command line; "" if none is set."""
    return next((f"--{name.replace('_', '-')}" for name in names if getattr(options, name)), "")
