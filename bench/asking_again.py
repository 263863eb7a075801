"""What does asking a few questions again cost? `python bench/asking_again.py [--questions 600]`.

The embedded model answers questions of hard5, and one question in a hundred a second time, in three ways: beside the
others, as `task.check_invariance=auto` does; afterwards, all in one batch; or afterwards, one at a time, as
`task.check_invariance=6` does. Counted are tokens and passes of the model, which are the same in every run. Where
arithmetic limits the speed, as with many rows on a CPU, time follows the tokens; where reading the weights does, as
with few rows or on a GPU, time follows the passes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from heading import parse_arguments

from runner.config.compose import compose_job
from runner.config.hydra import to_runner_config
from runner.config.resolved import resolve_job
from runner.config.root import RunnerConfig
from runner.datasets.question_subsets import index_questions_by_number
from runner.engines.kinds import get_model_kind
from runner.records.jobs import Job, Recorder
from runner.tasks.base import TaskContext
from runner.tasks.collecting import build_sample_from_completions, send_requests
from runner.tasks.gsm8k import task as gsm8k
from runner.tasks.gsm8k.judging import Judge
from runner.tasks.gsm8k.repeated_questions import RepeatedQuestions
from runner_engine.sessions.base import Completion
from runner_engine.sessions.contract import Engine

MOST_PERCENT = 2.0
BESIDE, ONE_BATCH, ALONE = "beside the others", "in one batch", "one at a time"


class Work:
    """Answers a job's questions, and counts tokens and passes."""

    def __init__(self, config: RunnerConfig, engine: Engine) -> None:
        self.config, self.engine, self.inputs = config, engine, gsm8k.prepare(config)
        self.items = index_questions_by_number(self.inputs.items)
        self.requests = gsm8k.build_question_requests(self.inputs, self.items)
        self.few = self.requests[: self.inputs.task.count_questions_to_repeat(len(self.requests))]

    def count(self, again: str) -> tuple[int, int, int]:
        """Return how many questions were asked again, and how many tokens and passes all took."""
        passes, asked, stats = 0, 0, self.engine.stats
        before = stats.prefill_tokens + stats.decode_tokens

        def one_more() -> None:
            nonlocal passes
            passes += 1

        judge = Judge(self.inputs.task, self.items)

        def listen(*choices: Completion) -> None:
            recorder.append_sample(judge(build_sample_from_completions(*choices)))

        with tempfile.TemporaryDirectory() as folder:
            recorder = Recorder(Job("job", Path(folder)))
            context = TaskContext(recorder, resolve_job(self.config), self.engine)
            beside = (
                RepeatedQuestions(self.few, context, Judge(self.inputs.task, self.items))
                if again == BESIDE
                else None
            )
            send_requests(self.engine, self.requests, listen, on_step=one_more, extra_source=beside)
            if beside is not None:
                asked = len(beside.recorded_answers())
                beside.close()
            elif again in {ONE_BATCH, ALONE}:
                asked, size = len(self.few), 1 if again == ALONE else None
                send_requests(self.engine, self.few[::-1], lambda *_: None, size, on_step=one_more)
            recorder.close()
        return asked, stats.prefill_tokens + stats.decode_tokens - before, passes


def main() -> int:
    """Count and print; 1 if asking beside the others costs more than 2 %."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=600)
    options = parse_arguments(parser)
    print(f"python bench/asking_again.py --questions {options.questions}")
    overrides = ["task.split=hard5", f"task.limit={options.questions}", "output_dir=/nowhere"]
    config = to_runner_config(*compose_job(overrides))
    engine = get_model_kind(config.model).open_engine(resolve_job(config))
    try:
        engine.load()
        work = Work(config, engine)
        counts = {way: work.count(way) for way in ("not at all", BESIDE, ONE_BATCH, ALONE)}
    finally:
        engine.close()
    _, *plain = counts["not at all"]
    print("\nasked again         questions   tokens            passes")
    for way, (asked, *sums) in counts.items():
        more = [f"{it:7,} {100 * (it / other - 1):+5.1f} %" for it, other in zip(sums, plain, strict=True)]
        print(f"{way:18s}  {asked:9d}   {'   '.join(more)}")
    shares = [100 * (it / other - 1) for it, other in zip(counts[BESIDE][1:], plain, strict=True)]
    return 1 if max(shares) > MOST_PERCENT else 0


if __name__ == "__main__":
    sys.exit(main())
