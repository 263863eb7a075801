"""Command-line options of `runner-compare`, with their help."""

from __future__ import annotations

import argparse

from runner_base import ConfigError
from runner_base.command_line import CommandParser
from runner_compare.readers.tools import supported_tools
from runner_compare.render.output import FORMATS
from runner_compare.statistics.pooling import PoolingWeights

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
    about = "Compare the runs in MLflow side by side, and say which differences are real."
    epilog = """examples:
  runner-compare --baseline quantization=none
  runner-compare --grid last --baseline quantization=none --save comparison --log
  runner-compare --where "seed = 0 and quantization.name in ('none', 'nf4')" --baseline quantization=none
  runner-compare --by quantization --baseline quantization=none
  runner-compare --baseline quantization=none --pool tasks --margin 2
  runner-compare --flips quantization=none,task.split=test quantization=nf4,task.split=test
  runner-compare --baseline quantization=none --plan-questions margin=2
  runner-compare --baseline quantization=none --require 'margin=2 model_mib<4000'
  runner-compare --lm-eval out_hf out_nf4
  runner-compare --results logs/a.eval logs/b.eval"""
    arguments = CommandParser(
        "runner-compare",
        description=about,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    pairs = "KEY=VALUE[,KEY=VALUE]"
    add = arguments.add_argument_group("source").add_argument
    add("--output-dir", default="outputs", help="folder that holds mlflow.db (default: %(default)s)")
    add(
        "--tracking-uri",
        help="MLflow store to read (default: MLFLOW_TRACKING_URI, else mlflow.db in output-dir)",
    )
    add("--experiment", help="MLflow experiment (default: MLFLOW_EXPERIMENT_NAME, else runner)")
    add(
        "--lm-eval",
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="instead of MLflow: what lm-evaluation-harness wrote with --output_path FOLDER --log_samples, with any "
        "backend; all are compared with the first, unless --baseline or --by says otherwise",
    )
    add(
        "--results",
        nargs="+",
        default=[],
        metavar="PATH",
        help=f"instead of MLflow: files or folders of {supported_tools()}; all are compared with the "
        "first, unless --baseline or --by says otherwise",
    )
    add(
        "--across-tools",
        action="store_true",
        help="with --results: pair evaluations of several tools by the text of their questions, all with that of the "
        "first path, and say what else differs",
    )
    add = arguments.add_argument_group(
        "which runs (default: the newest finished run of each job, of those comparable with the newest grid or run)"
    ).add_argument
    add(
        "--all",
        action="store_true",
        help="all of them: also those with other questions or prompts than the newest",
    )
    add("--task", help="only this task, e.g. gsm8k (default: one table per task)")
    add("--grid", metavar="ID|last", help="only the jobs of this grid: its MLflow run id, or the last one")
    add("--runs", nargs="+", default=[], metavar="ID", help="only these: job ids or MLflow run ids")
    add(
        "--where",
        action="append",
        default=[],
        metavar="FILTER",
        help=f"only runs with these values: {pairs}, or an expression with and, or, not, in, = != < <= > >= over "
        "config keys and metrics: \"quantization.name='nf4' and accuracy > 0.9\"",
    )
    add = arguments.add_argument_group("what is compared").add_argument
    add(
        "--baseline",
        default="",
        metavar=pairs,
        help="compare all others with the runs that have these values",
    )
    add(
        "--ignore",
        default="",
        metavar="KEY[,KEY]",
        help="with --baseline: also compare runs that differ from their baseline in these keys, such as "
        "model.revision; the row says so",
    )
    add(
        "--by",
        default="",
        metavar="KEY[,KEY]",
        help="one row for each combination of these keys; runs that agree in them (other splits) are pooled",
    )
    add(
        "--teams",
        action="store_true",
        help="name jobs of task=agents by what their teams are, so that all have one baseline: "
        '--teams --baseline "team=one agent"',
    )
    add(
        "--pool",
        nargs="?",
        const=PoolingWeights.questions.value,
        choices=[weight.value for weight in PoolingWeights],
        help="also give each setting one verdict over all tasks, splits and data sets: the mean of its differences, in "
        "which all questions count the same (default) or all tasks",
    )
    add(
        "--seeds",
        action="store_true",
        help="runs that differ only in their seed are one row: the mean over seeds, with intervals that count "
        "questions and seeds, and the spread over seeds",
    )
    add(
        "--unpaired",
        action="store_true",
        help="compare also what cannot be paired (other questions, prompts, scoring), with Fisher's exact test",
    )
    add(
        "--count-errors",
        action="store_true",
        help="compare also jobs with questions that ended in an error, and count those as not solved",
    )
    add(
        "--cluster",
        default="",
        metavar="FIELD",
        help="questions with the same value of this field are one family and count as one: a field of lm-eval's "
        "documents, a key of the metadata of inspect_ai's samples, or the one that task.cluster has recorded in each "
        "job",
    )
    add(
        "--metric",
        default="",
        metavar="NAME",
        help="compare this number of each question instead of verdicts: new_tokens, thinking_tokens, answer_tokens, "
        "characters, cost_usd; of several answers to each question pass@4 (one of 4 is right), maj@4 (their vote is) "
        "or pass^4 (all are); with "
        "--lm-eval or --results, only this metric of those in the files",
    )
    add(
        "--margin",
        action="append",
        default=[],
        metavar="POINTS|NATSnats|PERCENT%",
        help="also decide which rows are as good as the baseline within a margin: 2 means 2 percentage points of "
        "accuracy, 0.01nats means 0.01 nats a token (or byte) of likelihood, 5%% means 5 percent of speed, time or "
        "memory; may be given once for each",
    )
    add(
        "--require",
        action="append",
        default=[],
        metavar="TERMS",
        help="exit with 1 and the reasons if a row, other than a baseline, fails a term: margin=2 (as good within 2 "
        "points), finding!=worse, or a metric by its interval: 'margin=2 model_mib<4000 accuracy>=0.8 kl_p95<0.5nats'",
    )
    add(
        "--recall-margin",
        metavar="POINTS",
        help="of jobs that ask for something in long texts: by how many points recall at a length may be below that at "
        "the shortest one, to count as kept (default: task.margin of the jobs, or 10)",
    )
    add(
        "--plan-questions",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="how many questions each comparison needs: margin=2 to show a row as good within 2 points, or detect=3 to "
        "detect a difference of 3 points; power=0.8",
    )
    add(
        "--tolerance",
        type=float,
        metavar="PERCENT",
        help="Pareto front: how far apart speeds may lie by noise alone (default: as the runs of each job show; with "
        "fewer than 3 runs of a job, speed is left out)",
    )
    add(
        "--flips",
        nargs=2,
        metavar=("A", "B"),
        help="the questions that only one of two runs solved, side by side; A and B: an id or a filter, A the baseline",
    )
    add(
        "--files",
        action="store_true",
        help="one table with a line for each model file instead of one for each task: bytes, memory, speed, KL and "
        "log-likelihood and accuracy against the reference, which files KL tells apart, the front; see "
        "experiments/which_file.yaml",
    )
    add = arguments.add_argument_group("output").add_argument
    add(
        "--format",
        default="table",
        choices=[*FORMATS, LLAMA],
        help="default: %(default)s; llama prints what llama-perplexity --kl-divergence does, for each run of "
        "task=likelihood that was compared with a reference by task.exact=true",
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
    add("--save", metavar="FOLDER", help="write comparison.html, .md, .csv, .json and pictures there")
    add(
        "--publish",
        metavar="FOLDER",
        help="write what a model's repository on the Hugging Face Hub may have there: a section for its card and "
        ".eval_results/*.yaml, with intervals and the commands; of task=likelihood with a reference a table of "
        "divergences, divergence.md; nothing is uploaded",
    )
    add(
        "--benchmark",
        default="",
        metavar="DATASET_ID:TASK_ID",
        help="with --publish: the benchmark on the Hub, where task.data is a file, and its task in the data set's "
        "eval.yaml (default: task.data, and task.subset or default)",
    )
    add("--log", action="store_true", help="log those files to the grid's MLflow run, as comparison/")
    return arguments


def command_with_sources(options: argparse.Namespace) -> tuple[str, ...]:
    """Return the command with the options that say which runs it reads."""
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
    """Raise ConfigError for options that conflict, or that need another one."""
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
    """Raise ConfigError if an option is set together with one that conflicts with it."""
    what, others = APART[name]
    if getattr(options, name) and (option := find_first_set_option(options, *others)):
        raise ConfigError(f"leave out {option}", key=what, code="conflict")


def find_first_set_option(options: argparse.Namespace, *names: str) -> str:
    """Return the first of these options that is set, as on the command line; "" if none is."""
    return next((f"--{name.replace('_', '-')}" for name in names if getattr(options, name)), "")
