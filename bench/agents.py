"""A team of agents in our engine next to one call at a time of transformers' `generate`: `python bench/agents.py`.

Both sides run the same discussions: the same questions, graph, prompts and programs. One side works on all questions
concurrently, like task=agents; the other makes one call of `generate` after another, like AgentPrune's local pipeline.
Runs alternate in one process, and each side has its own copy of the model. Transcripts are compared call by call.
"""

from __future__ import annotations

import argparse
import random
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from engines import greedy_engine, head_line, markdown, model_folder, spread

from runner.agents.graph import Graph
from runner.agents.learning import Learner
from runner.agents.methods import Ours
from runner.agents.play import Player
from runner.agents.sandbox import Sandbox
from runner.agents.tally import Tally
from runner.agents.team import AgentCall, Answered, Discussion, Team
from runner.config.agents import AgentsConfig, Baseline, DecisionMethod, Domain, Mode
from runner.config.model import LocalModelConfig
from runner.core.dtypes import Dtype
from runner.core.result import FinishReason
from runner.core.stats import paired_difference_interval
from runner.datasets.gsm8k import Item, load_questions
from runner.engines.base import Capability, Completion, Event, Message, Request, RequestId
from runner.engines.session import Session


class Nothing:
    """A ledger that records nothing, so that every call is made."""

    def find(self, turn: AgentCall) -> Answered | None:
        """Return None: no call is recorded."""

    def add(self, answered: Answered) -> None:
        """Record nothing."""

    def add_code(self, answered: Answered) -> None:
        """Record nothing."""

    def begun(self, turn: AgentCall) -> None:
        """Return None: nothing is begun."""

    def keep(self, unfinished: list[Completion]) -> str:
        """Keep nothing."""
        return ""


class OneAtATime(Session):
    """Answers one request per step through `generate`, greedily."""

    def __init__(self, model: Any, tokenizer: Any, max_new_tokens: int) -> None:
        super().__init__(frozenset(Capability))
        self.model, self.tokenizer, self.max_new_tokens = model, tokenizer, max_new_tokens
        self.waiting: list[Request] = []

    def _admit(self, request: Request) -> Request:
        return request

    def _advance(self, arrived: list[Request], cancelled: set[RequestId]) -> list[Event]:
        self.waiting += arrived
        request = self.waiting.pop(0)
        assert not cancelled
        assert isinstance(request.prompt, tuple)
        chat = [{"role": one.role, "content": one.content} for one in request.prompt if isinstance(one, Message)]
        prompt = self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        inputs = self.tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
        with torch.inference_mode():
            sequence = self.model.generate(**inputs, max_new_tokens=self.max_new_tokens, do_sample=False)[0]
        count = inputs["input_ids"].shape[1]
        new_ids = sequence[count:].tolist()
        is_whole = new_ids[-1] == self.tokenizer.eos_token_id
        text = self.tokenizer.decode(new_ids, skip_special_tokens=True)
        reason = FinishReason.stop if is_whole else FinishReason.length
        return [Completion(request.id, text, new_ids[: len(new_ids) - is_whole], reason, "", count, 0.0, 0.0)]

    def _drop(self) -> None:
        self.waiting.clear()


def discussions(items: list[Item], graph: Graph, team: Team, phase: str = "test") -> list[Discussion]:
    """Return the discussions at their start; rounds are drawn for each question, like in task=agents."""
    started = []
    for index, item in enumerate(items):
        rng = random.Random(f"0/{phase}/{index}")
        started.append(Discussion(team, f"{phase}/{index}", item.question, [graph.draw(rng, 0)]))
    return started


def play(played: list[Discussion], open_session: Callable[[], Session]) -> tuple[float, float]:
    """Play all of them; return the seconds and the processor time, which includes the agents' programs."""
    started, before_s = time.perf_counter(), cpu_s()
    with Player(Nothing(), Sandbox(), open_session) as player:
        player.play(played)
    return time.perf_counter() - started, cpu_s() - before_s


def cpu_s() -> float:
    """Return the processor time so far of this process and its children; other programs do not count."""
    uses = (resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(use.ru_utime + use.ru_stime for use in uses)


def learned(options: argparse.Namespace, team: Team, open_session: Callable[[], Session]) -> Graph:
    """Return a graph that is trained and pruned like in task=agents, on questions that are not scored."""
    graph = Graph.of(options.mode, options.agents, seed=0, optimized_spatial=True)
    learner, size = Learner(graph, Ours(baseline=Baseline.mean)), 4
    items = load_questions(AgentsConfig(split="train", limit=size * options.iterations))
    with Player(Nothing(), Sandbox(), open_session) as player:
        for first in range(0, len(items), size):
            batch = items[first : first + size]
            played = discussions(batch, graph, team, f"train/{first}")
            player.play(played)
            learner.step([(one.rounds, one.answer == item.gold) for one, item in zip(played, batch, strict=True)])
    return graph


def pruned_beside_whole(
    whole: list[Discussion], pruned: list[Discussion], items: list[Item], edges: tuple[int, int]
) -> str:
    """Return the tokens that pruning saves, and its effect on accuracy, question by question."""
    costs, solved = [], []
    for played in (whole, pruned):
        tally = Tally()
        for discussion in played:
            tally.add(discussion)
        costs.append(tally.metrics(len(items)))
        solved.append([discussion.answer == item.gold for discussion, item in zip(played, items, strict=True)])
    won = sum(after and not before for before, after in zip(*solved, strict=True))
    lost = sum(before and not after for before, after in zip(*solved, strict=True))
    low, high = paired_difference_interval(won, lost, len(items))
    changed = [costs[1][f"{which}_tokens"] / costs[0][f"{which}_tokens"] - 1 for which in ("prompt", "new")]
    return (
        f"pruned from {edges[0]} to {edges[1]} edges: {changed[0]:+.0%} prompt tokens, {changed[1]:+.0%} new tokens; "
        f"accuracy {sum(solved[0]) / len(items):.1%} -> {sum(solved[1]) / len(items):.1%}, {won} won and {lost} "
        f"lost of {len(items)}, difference {100 * low:+.1f}..{100 * high:+.1f} points (95 %, paired)"
    )


def transcripts(played: list[Discussion]) -> dict[str, str]:
    """Return the texts of all calls."""
    return {key: answered.call.text for discussion in played for key, answered in discussion.answered.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded", help="random (a 135M Llama shape), embedded or a FOLDER")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="float32")
    parser.add_argument("--mode", choices=list(Mode), default=Mode.full_connected, type=Mode)
    parser.add_argument("--domain", choices=list(Domain), default=Domain.gsm8k, type=Domain)
    parser.add_argument("--agents", type=int, default=4)
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--new-tokens", type=int, default=64, help="the most that a call may get")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=10, help="of 4 questions, to learn and prune; 0: neither")
    parser.add_argument("--threads", type=int, help="default: as our engine decides, for both")
    options = parser.parse_args()
    folder = str(model_folder(options.model))
    model_config = LocalModelConfig(name=folder, device="cpu", dtype=Dtype(options.dtype), threads=options.threads)
    engine = greedy_engine(model_config, max_new_tokens=options.new_tokens)
    engine.load()
    from transformers import AutoModelForCausalLM, AutoTokenizer  # after the engine, which has set the threads

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, options.dtype)).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    graph = Graph.of(options.mode, options.agents, seed=0)
    team = Team.of(graph.agents, None, options.domain, DecisionMethod.final_refer)
    items = load_questions(AgentsConfig(limit=options.questions))

    def one_at_a_time() -> Session:
        return OneAtATime(model, tokenizer, options.new_tokens)

    sides = {"task=agents": engine.open, "one call at a time through generate": one_at_a_time}
    for open_session in sides.values():
        play(discussions(items[:2], graph, team), open_session)  # builds kernels and replaces layers by faster ones
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    processor: dict[str, list[float]] = {name: [] for name in sides}
    calls = equal = shared = 0
    tally = Tally()
    for _ in range(options.repeats):
        texts = []
        for name, open_session in sides.items():
            played, before = discussions(items, graph, team), engine.stats.shared_tokens
            for measurements, took in zip((seconds, processor), play(played, open_session), strict=True):
                measurements[name].append(took)
            texts.append(transcripts(played))
            shared += engine.stats.shared_tokens - before
            if name == "task=agents":
                for discussion in played:
                    tally.add(discussion)
        calls += len(texts[0])
        equal += sum(texts[0][key] == texts[1].get(key) for key in texts[0])
    ratios, cpu_ratios = (
        [slow / fast for slow, fast in zip(*reversed(measurements.values()), strict=True)]
        for measurements in (seconds, processor)
    )
    count = calls // options.repeats
    print(f"### {options.model}, {options.dtype}: {graph.agents} agents, {options.mode}, {len(items)} questions\n")
    print(head_line(sys.argv, torch.get_num_threads()), end="\n\n")
    rows = [
        [name, spread(took), spread(processor[name]), spread([count / one for one in took]), *times]
        for (name, took), times in zip(
            seconds.items(), (["1", "1"], [spread(ratios, 2), spread(cpu_ratios, 2)]), strict=True
        )
    ]
    head = [f"{options.repeats} runs: median (least..most)", "s", "processor s", "calls/s", "× s", "× processor s"]
    print(markdown(head, rows))
    print(f"\ntranscripts: {equal} of {calls} calls equal")
    costs = tally.metrics(len(items) * options.repeats)
    shares = f"{shared / costs['prompt_tokens']:.0%} of all prompt tokens were not computed again"
    tokens = [f"{costs[f'{which}_tokens_per_question']:,.0f} {which}" for which in ("prompt", "new")]
    print(f"a question: {' and '.join(tokens)} tokens; {shares}")
    print(f"median ratio: {statistics.median(ratios):.2f}, of processor time {statistics.median(cpu_ratios):.2f}")
    if options.iterations:
        better = learned(options, team, engine.open)
        sides_of_pruning = []
        for one in (graph, better):
            played = discussions(items, one, team)
            play(played, engine.open)
            sides_of_pruning.append(played)
        edges = graph.spatial.count, better.spatial.count
        print(pruned_beside_whole(sides_of_pruning[0], sides_of_pruning[1], items, edges))
    engine.close()


if __name__ == "__main__":
    main()
