"""Remake the embedded model: `python -m tools.embedded_model.train` (tokenizer, weights, two adapters, card).

Everything is a function of --seed. Results are identical on one platform with one version of torch; a CPU with another
instruction set rounds differently, which is why the weights are shipped.
"""

import argparse
import hashlib
import json
import platform
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from runner.datasets.word_problems import Split, generate_problems
from runner_engine.embedded import LORA_PEFT_DIR, LORA_PTH_PATH, MODEL_DIR
from tools.embedded_model.data import base_example, five_step_example
from tools.embedded_model.evaluate import Score, score
from tools.embedded_model.fit import Fitted, batches, fit, log
from tools.embedded_model.lora import attach_square_lora, load_square_lora, save_square_lora
from tools.embedded_model.tokenizer import MAX_POSITION, build_tokenizer, save_tokenizer

BASE_STEPS = 1400
LORA_STEPS = 320
BATCH_SIZE = 32
LORA_BATCH_SIZE = 16
PEAK_LR = 2e-3
LORA_LR = 3e-3
PEFT_RANK = 8
SQUARE_RANK = 16
TOKENIZER_EXAMPLES = 20_000
VALIDATE_EVERY_STEPS = 200
VALIDATION_PROBLEMS = 200
CARD_PROBLEMS = 1000
CARD_SPLITS = (Split.TEST, Split.HARD, Split.HARD5)


def main() -> None:
    """Run the stages one after the other."""
    args = _arguments()
    # One thread: sums are then always in the same order, so that the same seed gives the same bits.
    torch.set_num_threads(1)
    # this program prints its own progress on stderr
    silence: Any = transformers.utils.logging.disable_progress_bar
    silence()
    args.output.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    model_dir = args.output / MODEL_DIR.name
    tokenizer = make_tokenizer(model_dir, args.seed)
    trainings = {"base": train_base(tokenizer, model_dir, args.steps, args.seed)}
    variants = ["base"] if args.skip_lora else ["lora_peft", "lora_pth", "base"]
    scores: dict[str, dict[str, Score]] = {}
    # The adapters are independent: one core each, and the base is scored when one of them is done.
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        work = {variant: pool.submit(finish_variant, variant, tokenizer, args) for variant in variants}
        for variant in reversed(variants):
            fitted, scores[variant] = work[variant].result()
            if fitted is not None:
                trainings[variant] = fitted
    write_card(args, trainings, scores, time.perf_counter() - start)


def finish_variant(
    variant: str, tokenizer: Any, args: argparse.Namespace
) -> tuple[Fitted | None, dict[str, Score]]:
    """Train a variant's adapter, if it is one, and score it; runs in a process of its own."""
    torch.set_num_threads(1)
    silence: Any = transformers.utils.logging.disable_progress_bar
    silence()
    model_dir = args.output / MODEL_DIR.name
    fitted = None
    if variant == "lora_peft":
        fitted = train_peft_lora(
            tokenizer, model_dir, args.output / LORA_PEFT_DIR.name, args.lora_steps, args.seed
        )
    elif variant == "lora_pth":
        fitted = train_square_lora(
            tokenizer, model_dir, args.output / LORA_PTH_PATH.name, args.lora_steps, args.seed
        )
    return fitted, measure(variant, tokenizer, args.output, args.card_problems)


def make_tokenizer(model_dir: Path, seed: int) -> Any:
    """Train the tokenizer on the first examples of the mix and save it."""
    texts = ["".join(p.text for p in base_example(index, seed)) for index in range(TOKENIZER_EXAMPLES)]
    tokenizer = build_tokenizer(texts)
    save_tokenizer(tokenizer, model_dir)
    log(f"tokenizer  {len(tokenizer)} tokens")
    return tokenizer


def train_base(tokenizer: Any, model_dir: Path, steps: int, seed: int) -> Fitted:
    """Train the model from scratch and save it in bfloat16."""
    torch.manual_seed(seed)
    model: Any = LlamaForCausalLM(_model_config(tokenizer))
    parameters = sum(p.numel() for p in model.parameters())
    log(f"base  {parameters:,} parameters, {steps} steps of {BATCH_SIZE} examples")
    valid = generate_problems(Split.VALID, VALIDATION_PROBLEMS, seed)

    def validate(step: int) -> None:
        if step % VALIDATE_EVERY_STEPS == 0 and step < steps:
            model.eval()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                log(f"base  step {step}  validation accuracy {score(model, tokenizer, valid)}")
            model.train()

    data = batches(tokenizer, lambda index: base_example(index, seed), BATCH_SIZE, seed)
    fitted = fit("base", model, _base_optimizers(model), data, steps, validate)
    model.to(torch.bfloat16).save_pretrained(model_dir)
    # safetensors writes 0600: unreadable to others if root installs it
    (model_dir / "model.safetensors").chmod(0o644)
    return fitted


def train_peft_lora(tokenizer: Any, model_dir: Path, peft_dir: Path, steps: int, seed: int) -> Fitted:
    """Train a PEFT adapter on all seven projections of the frozen, saved model, mostly on five
    steps."""
    torch.manual_seed(seed)
    config = peft.LoraConfig(
        r=PEFT_RANK, lora_alpha=2 * PEFT_RANK, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    model = peft.get_peft_model(load_base(model_dir, torch.float32), config)
    trained = [p for p in model.parameters() if p.requires_grad]
    fitted = _fit_adapter("lora_peft", model, trained, tokenizer, steps, seed)
    model.save_pretrained(str(peft_dir), save_embedding_layers=False)
    tidy_peft_folder(peft_dir)
    return fitted


def train_square_lora(tokenizer: Any, model_dir: Path, path: Path, steps: int, seed: int) -> Fitted:
    """Train the same skill in q_proj and o_proj only, and save it as a `.pth` file."""
    torch.manual_seed(seed)
    model = load_base(model_dir, torch.float32)
    model.requires_grad_(False)
    trained = attach_square_lora(model, SQUARE_RANK)
    fitted = _fit_adapter("lora_pth", model, trained, tokenizer, steps, seed)
    save_square_lora(model, path)
    return fitted


def measure(variant: str, tokenizer: Any, output: Path, n: int) -> dict[str, Score]:
    """Score the saved files, loaded as users load them: {split: score}."""
    model = load_base(output / MODEL_DIR.name, torch.bfloat16)
    if variant == "lora_peft":
        model = peft.PeftModel.from_pretrained(model, str(output / LORA_PEFT_DIR.name))
    elif variant == "lora_pth":
        load_square_lora(model, output / LORA_PTH_PATH.name)
    scores: dict[str, Score] = {}
    for split in CARD_SPLITS:
        scores[split] = score(model.eval(), tokenizer, generate_problems(split, n))
        log(f"card  {variant}  {split}  {scores[split]}")
    return scores


def write_card(
    args: argparse.Namespace,
    trainings: dict[str, Fitted],
    scores: dict[str, dict[str, Score]],
    seconds: float,
) -> None:
    """Write card.json: the scores, the versions, and the digest of the weights."""
    weights = args.output / MODEL_DIR.name / "model.safetensors"
    card = {
        "seed": args.seed,
        "steps": args.steps,
        "lora_steps": None if args.skip_lora else args.lora_steps,
        "seconds": round(seconds, 1),
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "trainings": {name: rounded(asdict(fitted)) for name, fitted in trainings.items()},
        "scores": {variant: entries(by_split) for variant, by_split in scores.items()},
        "versions": versions(),
    }
    (args.output / "card.json").write_text(json.dumps(card, indent=2) + "\n")
    print(f"weights sha256 {card['weights_sha256']}")
    print(f"{seconds:.0f} s in all; scores in {args.output / 'card.json'}")


def entries(scores: dict[str, Score]) -> dict[str, Any]:
    """Return scores in the form of a card."""
    return {
        name: rounded({**asdict(s), "accuracy": s.accuracy, "wilson_95": s.compute_interval()})
        for name, s in scores.items()
    }


def versions() -> dict[str, str]:
    """Return what the result of a training depends on, besides its seed."""
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "platform": f"{platform.system()} {platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
    }


def _model_config(tokenizer: Any) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        intermediate_size=704,
        max_position_embeddings=MAX_POSITION,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _base_optimizers(model: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the matrices (half the steps of AdamW to the same accuracy), AdamW for embedding and
    norms."""
    named = list(model.named_parameters())
    matrices = [p for name, p in named if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in named if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=PEAK_LR, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=PEAK_LR, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def _fit_adapter(
    name: str, model: nn.Module, trained: list[nn.Parameter], tokenizer: Any, steps: int, seed: int
) -> Fitted:
    log(
        f"{name}  {sum(p.numel() for p in trained):,} parameters, {steps} steps of {LORA_BATCH_SIZE} examples"
    )
    data = batches(tokenizer, lambda index: five_step_example(index, seed), LORA_BATCH_SIZE, seed)
    optimizer = torch.optim.AdamW(trained, lr=LORA_LR, betas=(0.9, 0.98), weight_decay=0.0)
    return fit(name, model, [optimizer], data, steps)


def load_base(model_dir: Path, dtype: torch.dtype) -> Any:
    """Load the saved base model."""
    return AutoModelForCausalLM.from_pretrained(str(model_dir), dtype=dtype)


def tidy_peft_folder(peft_dir: Path) -> None:
    """Drop the README template, and the path of the base on this machine."""
    (peft_dir / "README.md").unlink(missing_ok=True)
    (peft_dir / "adapter_model.safetensors").chmod(0o644)
    path = peft_dir / "adapter_config.json"
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = "embedded"
    # a set: its order changes from run to run
    config["target_modules"] = sorted(config["target_modules"])
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def halve(weights: Path) -> None:
    """Round to half precision: half the size."""
    halves = {name: tensor.half() for name, tensor in load_file(weights).items()}
    save_file(halves, weights, {"format": "pt"})


def rounded(values: dict[str, Any]) -> dict[str, Any]:
    """Return values with four decimals."""

    def short(value: Any) -> Any:
        if isinstance(value, tuple):
            return [short(v) for v in value]
        return round(value, 4) if isinstance(value, float) else value

    return {name: short(value) for name, value in values.items()}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.embedded_model.train", description=__doc__)
    parser.add_argument("--output", type=Path, default=MODEL_DIR.parent, help="default: the package's folder")
    parser.add_argument("--steps", type=int, default=BASE_STEPS, help="of the base model (%(default)s)")
    parser.add_argument("--lora-steps", type=int, default=LORA_STEPS, help="of each adapter (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--skip-lora", action="store_true", help="the base model only")
    parser.add_argument(
        "--card-problems", type=int, default=CARD_PROBLEMS, help="of each split (%(default)s)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
