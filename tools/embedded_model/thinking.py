"""Train an adapter that thinks before it answers: `python -m tools.embedded_model.thinking --output DIR`, and score it.

It belongs to the shipped base model. `lora=embedded_thinking` uses the shipped one, and `lora=peft
lora.path=DIR/lora_thinking` another one. Training runs on one thread: the same seed gives the same bits on one
platform.
"""

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import peft
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoTokenizer

from runner.datasets.word_problems import Problem, Split, generate_problems
from runner_engine.embedded import LORA_PEFT_DIR, MODEL_DIR
from tools.embedded_model.data import task_prompt
from tools.embedded_model.evaluate import FINAL_NUMBER, Score, complete
from tools.embedded_model.fit import Fitted, batches, fit, log
from tools.embedded_model.thinking_data import CLOSING, OPENING, thinking_example
from tools.embedded_model.train import entries, halve, load_base, rounded, tidy_peft_folder, versions

STEPS = 600
SAVE_EVERY_STEPS = 100
BATCH_SIZE = 16
PEAK_LR = 1.5e-3
RANK = 16
CARD_PROBLEMS = 300
CARD_SPLITS = (Split.TEST, Split.HARD, Split.HARD5)
BUDGETS = (0, 16, 32, 64, 128)  # tokens of thinking, then the closing tag is forced
MAX_NEW_TOKENS = (256, 512)  # without a budget: in all
ANSWER_TOKENS = 40
ADAPTER, CARD_NAME = "lora_thinking", "card_thinking.json"  # in the output folder


class Measured(NamedTuple):
    """What an adapter does on some problems: how many it solves within which limit, and how long it
    thinks."""

    scores: dict[str, Score]
    thinking_tokens: list[int]  # of each problem, up to the longest limit
    cut_off: dict[int, int]  # limit of new tokens -> how many were still thinking there


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
        fitted = train(tokenizer, folder, args.steps, args.seed, args.start)
        card |= {
            "seed": args.seed,
            "steps": args.steps,
            "training": rounded(asdict(fitted)),
            "versions": versions(),
        }
    model = peft.PeftModel.from_pretrained(load_base(MODEL_DIR, torch.float32), str(folder)).eval()
    card["thoughts"] = {}
    for split in CARD_SPLITS:
        path.write_text(json.dumps(card, indent=2) + "\n")
        measured = measure(model, tokenizer, generate_problems(split, args.card_problems))
        for name, score in measured.scores.items():
            log(f"card  {split}  {name}  {score}")
        card["scores"][split.value] = entries(measured.scores)
        card["thoughts"][split.value] = lengths(measured)
    path.write_text(json.dumps(card, indent=2) + "\n")
    print(f"{time.perf_counter() - start:.0f} s in all; scores in {path}")


def train(tokenizer: Any, folder: Path, steps: int, seed: int, start: Path = LORA_PEFT_DIR) -> Fitted:
    """Train a PEFT adapter on all seven projections of the shipped base model, from another adapter
    on."""
    torch.manual_seed(seed)
    config = peft.LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(load_base(MODEL_DIR, torch.float32), config)
    _start_from(model, start / "adapter_model.safetensors")
    trained = [p for p in model.parameters() if p.requires_grad]
    log(f"thinking  {sum(p.numel() for p in trained):,} parameters, {steps} steps of {BATCH_SIZE} examples")

    def save(step: int) -> None:
        if step % SAVE_EVERY_STEPS == 0 or step == steps:
            model.save_pretrained(str(folder), save_embedding_layers=False)
            halve(folder / "adapter_model.safetensors")
            tidy_peft_folder(folder)

    data = batches(tokenizer, lambda index: thinking_example(index, seed), BATCH_SIZE, seed)
    optimizer = torch.optim.AdamW(trained, lr=PEAK_LR, betas=(0.9, 0.98), weight_decay=0.0)
    return fit("thinking", model, [optimizer], data, steps, save)


def measure(
    model: Any,
    tokenizer: Any,
    asked: list[Problem],
    budgets: tuple[int, ...] = BUDGETS,
    limits: tuple[int, ...] = MAX_NEW_TOKENS,
) -> Measured:
    """Let the model think up to each limit of new tokens, then close its longest thoughts at each
    budget.

    Greedy: the first tokens of the longest thought are those of a shorter one.
    """
    prompts = ["".join(piece.text for piece in task_prompt(one.question)) for one in asked]
    texts = [""] * len(asked)
    scores: dict[str, Score] = {}
    cut_off: dict[int, int] = {}

    def go_on(which: list[int], starts: list[str], tokens: int) -> dict[int, str]:
        begun = [prompts[index] + start for index, start in zip(which, starts, strict=True)]
        ends = complete(model, tokenizer, begun, max_new_tokens=tokens)
        return {index: start + end for index, start, end in zip(which, starts, ends, strict=True)}

    def solved(answers: list[str]) -> Score:
        found = [FINAL_NUMBER.search(text.partition(CLOSING)[2]) for text in answers]
        return Score(
            sum(m is not None and m[1] == p.gold for m, p in zip(found, asked, strict=True)), len(asked)
        )

    done = 0
    for limit in sorted(limits):
        going_on = [index for index, text in enumerate(texts) if CLOSING not in text]
        for index, text in go_on(going_on, [texts[index] for index in going_on], limit - done).items():
            texts[index] = text
        scores[f"at most {limit} new tokens"] = solved(texts)
        cut_off[limit] = sum(CLOSING not in text for text in texts)
        done = limit
    thoughts = [text.partition(CLOSING)[0].removeprefix(OPENING) for text in texts]
    ids = [tokenizer.encode(it, add_special_tokens=False) for it in thoughts]
    for budget in budgets:
        over = [index for index, it in enumerate(ids) if len(it) > budget]
        starts = [f"{OPENING}{tokenizer.decode(ids[index][:budget])}{CLOSING}" for index in over]
        closed = go_on(over, starts, ANSWER_TOKENS)
        scores[f"at most {budget} thinking tokens"] = solved(
            [closed.get(i, text) for i, text in enumerate(texts)]
        )
    return Measured(scores, [len(it) for it in ids], cut_off)


def lengths(measured: Measured) -> dict[str, Any]:
    """Return the quartiles of the thinking tokens, and how many thoughts were cut off, in the form
    of a card."""
    ordered = sorted(measured.thinking_tokens)
    at = {
        f"{share}%": ordered[min(len(ordered) - 1, len(ordered) * share // 100)]
        for share in (0, 25, 50, 75, 90)
    }
    return {
        "n": len(ordered),
        "tokens": at,
        "cut_off": {f"{k} new tokens": it for k, it in measured.cut_off.items()},
    }


def _start_from(model: Any, weights: Path) -> None:
    """Copy an adapter of a lower rank and the same scaling: what it has not is left as at the
    start, without effect."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in load_file(weights).items():
            rows, columns = tensor.shape
            parameters[name.replace(".weight", ".default.weight")][:rows, :columns] = tensor


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.embedded_model.thinking", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="the folder for the adapter and its card")
    parser.add_argument(
        "--steps", type=int, default=STEPS, help="of the training (%(default)s); 0: only score again"
    )
    parser.add_argument(
        "--start", type=Path, default=LORA_PEFT_DIR, help="the adapter to go on from (the five-step one)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--card-problems", type=int, default=CARD_PROBLEMS, help="of each split (%(default)s)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
