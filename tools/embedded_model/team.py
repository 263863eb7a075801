"""Train an adapter for a team of agents: `python -m tools.embedded_model.team --output DIR`, and score it.

It belongs to the shipped base model. With task=agents task.domain=brief, `lora=embedded_team` uses the shipped one, and
`lora=peft lora.path=DIR/lora_team` another one. All products are in float32, and on one thread: the same seed gives the
same bits on one platform.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import peft
import torch
import transformers
from transformers import AutoTokenizer

from runner.datasets.word_problems import Problem, Split, generate_problems
from runner.options.agents import agent_prompts
from runner.options.agents.agent_prompts import AgentMessage
from runner.options.agents.keys import PromptStyle
from runner.sandbox.sandbox import Sandbox
from runner_engine.embedded import MODEL_DIR
from runner_engine.sessions.base import Message
from tools.embedded_model.evaluate import Score, complete
from tools.embedded_model.fit import Fitted, batches, fit, log
from tools.embedded_model.steps import Step, steps_of
from tools.embedded_model.team_data import AGENTS, dialogue, mistaken, spoken, team_example
from tools.embedded_model.train import entries, load_base, rounded, tidy_peft_folder, versions

STEPS = 1000
BATCH_SIZE = 16
PEAK_LR = 3e-3
RANK = 16
CARD_PROBLEMS = 100
CARD_SPLITS = (Split.HARD5, Split.HARD)
ADAPTER, CARD_NAME = "lora_team", "card_team.json"  # in the output folder


def main() -> None:
    """Train, score, write the card."""
    args = _arguments()
    torch.set_num_threads(1)
    silence: Any = transformers.utils.logging.disable_progress_bar  # ours are the lines on stderr
    silence()
    start = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(str(MODEL_DIR))
    args.output.mkdir(parents=True, exist_ok=True)
    folder = args.output / ADAPTER
    path = args.output / CARD_NAME
    card: dict[str, Any] = {"scores": {}} if args.steps else json.loads(path.read_text())
    if args.steps:
        fitted = train(tokenizer, folder, args.steps, args.seed)
        card |= {
            "seed": args.seed,
            "steps": args.steps,
            "training": rounded(asdict(fitted)),
            "versions": versions(),
        }
    model = peft.PeftModel.from_pretrained(load_base(MODEL_DIR, torch.float32), str(folder)).eval()
    for split in CARD_SPLITS:  # the card is written each time: scoring takes as long as the training
        path.write_text(json.dumps(card, indent=2) + "\n")
        card["scores"][split.value] = entries(
            measure(model, tokenizer, generate_problems(split, args.card_problems))
        )
    path.write_text(json.dumps(card, indent=2) + "\n")
    print(f"{time.perf_counter() - start:.0f} s in all; scores in {path}")


def train(tokenizer: Any, folder: Path, steps: int, seed: int) -> Fitted:
    """Train a PEFT adapter on all seven projections of the shipped base model."""
    torch.manual_seed(seed)
    config = peft.LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(load_base(MODEL_DIR, torch.float32), config)
    trained = [p for p in model.parameters() if p.requires_grad]
    log(f"team  {sum(p.numel() for p in trained):,} parameters, {steps} steps of {BATCH_SIZE} examples")
    data = batches(tokenizer, lambda index: team_example(index, seed), BATCH_SIZE, seed)
    optimizer = torch.optim.AdamW(trained, lr=PEAK_LR, betas=(0.9, 0.98), weight_decay=0.0)
    fitted = fit("team", model, [optimizer], data, steps, is_bfloat16=False)
    model.save_pretrained(str(folder), save_embedding_layers=False)
    tidy_peft_folder(folder)
    return fitted


def measure(model: Any, tokenizer: Any, asked: list[Problem]) -> dict[str, Score]:
    """Score each role alone, with one neighbour's solution, and the decision over the four's own
    solutions."""
    sandbox = Sandbox()

    def say(agent: int, now: Sequence[Sequence[AgentMessage]]) -> list[AgentMessage]:
        role = agent_prompts.ROLES[agent]
        calls = [
            agent_prompts.build_agent_messages(role, PromptStyle.brief, p.question, heard, ())
            for p, heard in zip(asked, now, strict=True)
        ]
        texts = _complete(model, tokenizer, calls)
        return [
            agent_prompts.make_agent_reply(
                agent, role, text, sandbox.run_program(text) if role.writes_code else None
            )
            for text in texts
        ]

    def scored(name: str, messages: Sequence[AgentMessage]) -> Score:
        score = Score(sum(one.answer == p.gold for one, p in zip(messages, asked, strict=True)), len(asked))
        log(f"card  {name}  {score}")
        return score

    nobody: list[list[AgentMessage]] = [[] for _ in asked]
    alone = [say(agent, nobody) for agent in range(AGENTS)]
    scores = {f"alone, {own[0].role.words}": scored(f"alone, {own[0].role.words}", own) for own in alone}
    solver, analyst, _, inspector = range(AGENTS)
    for name, heard in (
        ("right", [[spoken(analyst, steps_of(p))] for p in asked]),
        ("wrong", [[spoken(analyst, _wrong(Random(f"card/{index}"), p))] for index, p in enumerate(asked)]),
    ):
        for agent in (solver, inspector):
            label = f"{name} neighbour, {agent_prompts.ROLES[agent].words}"
            scores[label] = scored(label, say(agent, heard))
    teams = list(zip(*alone, strict=True))
    votes = [max(team, key=lambda one: sum(one.answer == other.answer for other in team)) for team in teams]
    scores["majority of the four"] = scored("majority of the four", votes)
    calls = [
        agent_prompts.build_decision_messages(PromptStyle.brief, p.question, team)
        for p, team in zip(asked, teams, strict=True)
    ]
    decided = [
        agent_prompts.make_agent_reply(0, agent_prompts.ROLES[0], text)
        for text in _complete(model, tokenizer, calls)
    ]
    scores["decision over the four"] = scored("decision over the four", decided)
    return scores


def _wrong(rng: Random, one: Problem) -> list[Step]:
    """Make a mistake that does not cancel out."""
    while True:
        steps = mistaken(rng, steps_of(one))
        if str(steps[-1].value) != one.gold:
            return steps


def _complete(model: Any, tokenizer: Any, calls: list[tuple[Message, ...]]) -> list[str]:
    prompts = ["".join(piece.text for piece in dialogue(call, "")[:-2]) for call in calls]
    return complete(model, tokenizer, prompts)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.embedded_model.team", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="the folder for the adapter and its card")
    parser.add_argument(
        "--steps", type=int, default=STEPS, help="of the training (%(default)s); 0: only score again"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--card-problems", type=int, default=CARD_PROBLEMS, help="of each split (%(default)s)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
