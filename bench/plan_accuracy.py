"""Do plans say what comes? `python bench/plan_accuracy.py --model FOLDER --data FOLDER_OF_GSM8K [--only NAME…]`.

Each job is planned as a user plans it (`plan=true`) in an output folder of its own, and then run as a process.
Of the first eight nothing is recorded: their times are calibrated or guessed. The next four have five worked examples,
and are planned from the record of a job with fewer or more questions, and other ones, since answers are reused. The
last five are planned from a job with other lengths, cases or depths, or another setting of RoPE. A
plan holds if the job's seconds lie within its stated range; of an upper bound (answers may end early) only the upper
end counts. `beside it` is what else the machine did meanwhile, which no plan knows.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from heading import parse_arguments
from latest import Figure, add_option, save

from runner.config.compose import compose_job
from runner.config.hydra import to_runner_config
from runner.estimates.render import format_estimated_time_and_source
from runner.estimates.speed import Estimate, EstimateBasis
from runner.grid.plan import estimate_planned_jobs, plan_job
from runner_base import machine
from tools.commands import jobs

ROOT = Path(__file__).resolve().parents[1]
TEXTS = ROOT / "experiments" / "real_texts.jsonl"


@dataclass(frozen=True)
class Case:
    """A job, and the one that is recorded before it is planned, if there is any."""

    name: str
    overrides: tuple[str, ...]
    before: tuple[str, ...] = ()


def cases(model: str, data: str) -> list[Case]:
    """Return the jobs of both tables."""
    real = ("model=local", f"model.name={model}")
    problems = (*real, f"task.data={data}", "generation.max_new_tokens=48")
    shots = (*real, f"task.data={data}", "task.shots=5", "generation.batch_size=16")
    few = (*shots, "task.limit=16", "generation.max_new_tokens=24")
    others = (*few, "task.offset=200")  # of which no answer is reused
    words = ("task.prompt=Tell me about Paris.", "generation.max_new_tokens=200")
    batch = ("task.batch_size=4", "task.prompt_tokens=128", "task.new_tokens=8")
    recall = (*real, "task=recall", "task.lengths=[256,512]", "task.cases=2", "generation.max_new_tokens=32")
    one_text = (*recall, "task.kinds=[several_asked_one]")
    texts = (*real, "task=likelihood", f"task.data={TEXTS}")
    cell = ("task.batch_sizes=[1,8]", "task.prompt_tokens=[64]", "task.new_tokens=32", "task.repeats=3")
    return [
        Case("embedded gsm8k", ("model=embedded",)),
        Case("embedded gsm8k nf4", ("model=embedded", "quantization=nf4")),
        Case("real gsm8k", (*problems, "task.limit=32")),
        Case("real gsm8k int8", (*problems, "task.limit=32", "quantization=int8")),
        Case("real likelihood", (*texts, "task.limit=60")),
        Case("real generate", (*real, "task=generate", *words)),
        Case("real sweep", (*real, "task=sweep", *cell)),
        Case("real memory", (*real, "task=memory", *batch)),
        Case("16 to 32 questions", (*few, "task.limit=32"), others),
        Case("16 to 64 questions", (*few, "task.limit=64"), others),
        Case("32 to 16 questions", few, (*others, "task.limit=32")),
        Case("16 to 48, nf4", (*few, "task.limit=48", "quantization=nf4"), (*others, "quantization=nf4")),
        Case("recall, other needles", (*recall, "task.cases_seed=1"), recall),
        Case(
            "recall, longer",
            (*recall, "task.lengths=[2k]", "task.depths=[0.5,1]", "task.cases_seed=1"),
            recall,
        ),
        Case("recall, more cases", (*one_text, "task.cases=4", "task.cases_seed=1"), one_text),
        Case("recall, fewer depths", (*recall, "task.depths=[0.5]", "task.cases_seed=1"), recall),
        Case("recall, yarn", (*recall, "rope=yarn", "rope.factor=2"), recall),
    ]


def main() -> None:
    """Plan, run, compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="the folder of a real model (make real-model)")
    parser.add_argument("--data", required=True, help="a folder with GSM8K's test.jsonl and train.jsonl")
    parser.add_argument("--only", nargs="+", help="the names of some jobs")
    add_option(parser)
    options = parse_arguments(parser)
    print(f"python bench/plan_accuracy.py --model FOLDER --data FOLDER\n{machine.describe_hardware()}")
    print(f"{'job':22}{'plan':>20}{'from':>26}{'seconds':>9}{'ratio':>7}  {'holds':12}beside it", flush=True)
    held = []
    for case in cases(options.model, options.data):
        if not options.only or case.name in options.only:
            line, holds = measure(case)
            held.append(holds)
            print(line, flush=True)
    if options.save:
        save([Figure.of("plans that held", f"of {len(held)}", [sum(held)])])


def measure(case: Case) -> tuple[str, bool]:
    """Plan and run a job; return its line, and whether its plan held."""
    with tempfile.TemporaryDirectory() as folder:
        common = [f"output_dir={folder}", "tracking=none"]
        if case.before:
            run([*case.before, *common])
        planned = plan([*case.overrides, *common])
        contention = machine.Contention()
        seconds = run([*case.overrides, *common])
        beside = contention.describe_competing_load()
    if planned is None:
        return f"{case.name:22}{'no time':>20}{'':>26}{seconds:9.1f}", False
    words, source = format_estimated_time_and_source(planned)
    figures = f"{words:>20}{source:>26}{seconds:9.1f}{planned.seconds / seconds:7.2f}"
    said = verdict(planned, seconds)
    return f"{case.name:22}{figures}  {said:12}{beside}", said == "yes"


def verdict(planned: Estimate, seconds: float) -> str:
    """Say whether a job took what its plan had stated."""
    is_bound = planned.is_upper_bound and planned.source is not EstimateBasis.recorded
    if seconds > planned.seconds * (1 + planned.spread):
        return "no: longer"
    return "no: shorter" if seconds < planned.seconds * (1 - planned.spread) and not is_bound else "yes"


def plan(overrides: Sequence[str]) -> Estimate | None:
    """Return the time that `plan=true` shows for a job."""
    config = to_runner_config(*compose_job([*overrides, "plan=true"]))
    return estimate_planned_jobs([plan_job([*overrides], config)])[0].time


def run(overrides: Sequence[str]) -> float:
    """Run a job in a process of its own; return the seconds that it reports."""
    return float(jobs(*overrides)[0]["metrics"]["seconds"])


if __name__ == "__main__":
    main()
