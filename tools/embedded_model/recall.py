"""Train an adapter that retrieves: `python -m tools.embedded_model.recall --output DIR`, and score it.

It belongs to the shipped base model, and finds needles of task=recall within its 1,024 positions, so that settings of
RoPE differ in what is found beyond them. `lora=embedded_recall` uses the shipped one, and `lora=peft
lora.path=DIR/lora_recall` another one. Training runs on one thread: the same seed gives the same bits on one platform.
"""

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from transformers import AutoTokenizer

from runner.datasets.word_problems import Split, generate_problems
from runner_engine.embedded import MODEL_DIR
from tools.embedded_model.evaluate import Score, complete, score
from tools.embedded_model.fit import Fitted, fit, log
from tools.embedded_model.recall_data import SCORES, Needles, batches, example_of
from tools.embedded_model.train import entries, halve, load_base, rounded, tidy_peft_folder, versions

STEPS = 420
SAVE_EVERY_STEPS = 100
PEAK_LR = 3e-3
WARMUP_STEPS = 30
RANK = 8
CARD_CASES = 100
CARD_LENGTHS = (256, 512, 1000)
CARD_ROWS = 20  # that are asked together
ANSWER_TOKENS = 40
ADAPTER, CARD_NAME = "lora_recall", "card_recall.json"  # in the output folder


def main() -> None:
    """Train, score, write the card."""
    args = _arguments()
    torch.set_num_threads(1)
    silence: Any = transformers.utils.logging.disable_progress_bar  # ours are the lines on stderr
    silence()
    start = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(str(MODEL_DIR))
    folder, path = args.output / ADAPTER, args.output / CARD_NAME
    args.output.mkdir(parents=True, exist_ok=True)
    card: dict[str, Any] = {} if args.steps else json.loads(path.read_text())
    if args.steps:
        fitted = train(tokenizer, folder, args.steps, args.seed)
        card = {
            "seed": args.seed,
            "steps": args.steps,
            "training": rounded(asdict(fitted)),
            "versions": versions(),
        }
    base = load_base(MODEL_DIR, torch.float32).eval()
    card["scores"] = {"base": entries(measure(base, tokenizer, args.card_cases))}
    adapted = peft.PeftModel.from_pretrained(base, str(folder)).eval()
    card["scores"]["adapter"] = entries(measure(adapted, tokenizer, args.card_cases))
    path.write_text(json.dumps(card, indent=2) + "\n")
    print(f"{time.perf_counter() - start:.0f} s in all; scores in {path}")


def train(tokenizer: Any, folder: Path, steps: int, seed: int) -> Fitted:
    """Train a PEFT adapter on all seven projections of the shipped base model."""
    torch.manual_seed(seed)
    config = peft.LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(load_base(MODEL_DIR, torch.float32), config)
    trained = [p for p in model.parameters() if p.requires_grad]
    log(f"recall  {sum(p.numel() for p in trained):,} parameters, {steps} steps")

    def save(step: int) -> None:
        if step % SAVE_EVERY_STEPS == 0 or step == steps:
            model.save_pretrained(str(folder), save_embedding_layers=False)
            halve(folder / "adapter_model.safetensors")
            tidy_peft_folder(folder)

    optimizer = torch.optim.AdamW(trained, lr=PEAK_LR, betas=(0.9, 0.98), weight_decay=0.0)
    return fit(
        "recall", model, [optimizer], batches(tokenizer, steps, seed), steps, save, warmup_steps=WARMUP_STEPS
    )


def measure(model: Any, tokenizer: Any, cases: int) -> dict[str, Score]:
    """Count in how many texts of each length the asked number is found, and how many word problems
    are solved."""
    scores = {f"{length:,} tokens": found(model, tokenizer, length, cases) for length in CARD_LENGTHS}
    scores["word problems"] = score(model, tokenizer, generate_problems(Split.TEST, cases))
    for name, counted in scores.items():
        log(f"card  {name}  {counted}")
    return scores


def found(model: Any, tokenizer: Any, length: int, cases: int) -> Score:
    """Count in how many texts of a length the asked number is found."""
    needles = Needles(tokenizer, f"{SCORES}/{length}")
    asked = [needles.filling(number, length) for number in range(cases)]
    prompts = ["".join(piece.text for piece in example_of(one)[:-1]) for one in asked]
    answers = complete(model, tokenizer, prompts, CARD_ROWS, ANSWER_TOKENS)
    return Score(sum(one.gold[0] in answer for one, answer in zip(asked, answers, strict=True)), cases)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.embedded_model.recall", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="the folder for the adapter and its card")
    parser.add_argument(
        "--steps", type=int, default=STEPS, help="of the training (%(default)s); 0: only score again"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--card-cases", type=int, default=CARD_CASES, help="of each length (%(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
