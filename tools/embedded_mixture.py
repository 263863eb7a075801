"""Make a small trained mixture of experts of the embedded model: `python -m tools.embedded_mixture --output FOLDER`.

Each of its experts begins as the embedded model's own layer with noise of its own, and is trained on the same problems,
and the router with them: minutes on two cores, where a mixture from scratch would take hours. It is not shipped. With
it a quantization of experts is measured on answers instead of on random weights:
`runner model=auto model.name=FOLDER quantization=none,int8,nf4`.
"""

import argparse
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, MixtralConfig, MixtralForCausalLM

from runner.datasets.word_problems import Split, generate_problems
from runner_engine.embedded import MODEL_DIR
from tools.embedded_model.data import base_example
from tools.embedded_model.evaluate import score
from tools.embedded_model.fit import batches, fit, log

EXPERTS, CHOSEN = 8, 2
NOISE = 0.5  # of an expert's weights, in standard deviations of its matrix
STEPS = 200
BATCH_SIZE = 16
PEAK_LR = 1e-3
BESIDE_WEIGHTS = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")
PROBLEMS = 200


def main() -> None:
    """Make the mixture, train it, and score it."""
    parser = argparse.ArgumentParser(prog="python -m tools.embedded_mixture", description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=STEPS, help="of the training (%(default)s)")
    parser.add_argument(
        "--problems", type=int, default=PROBLEMS, help="that are scored at last (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    model = mixture(AutoModelForCausalLM.from_pretrained(str(MODEL_DIR), dtype=torch.float32), NOISE)
    tokenizer: Any = AutoTokenizer.from_pretrained(str(MODEL_DIR))
    log(f"mixture  {sum(one.numel() for one in model.parameters()):,} parameters, {args.steps} steps")
    data = batches(tokenizer, lambda index: base_example(index, args.seed), BATCH_SIZE, args.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, betas=(0.9, 0.98), weight_decay=0.0)
    fitted = fit("mixture", model, [optimizer], data, args.steps)
    log(f"loss {fitted.first_loss:.3f} at first, {fitted.last_loss:.3f} at last, {fitted.seconds:.0f} s")
    save(model, args.output)
    saved = AutoModelForCausalLM.from_pretrained(str(args.output), dtype=torch.bfloat16).eval()
    print(f"{args.output}: {score(saved, tokenizer, generate_problems(Split.TEST, args.problems))}")


def mixture(dense: Any, noise: float) -> Any:
    """Return a mixture whose experts are a dense model's own layers, each with noise; without it,
    all are the same."""
    own = dense.config
    kept = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim",
            "num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings", "rope_parameters",
            "bos_token_id", "eos_token_id", "pad_token_id")  # fmt: skip
    settings = {name: getattr(own, name) for name in kept}
    model: Any = MixtralForCausalLM(
        MixtralConfig(**settings, num_local_experts=EXPERTS, num_experts_per_tok=CHOSEN, sliding_window=None)
    )
    state = {name: value for name, value in dense.state_dict().items() if ".mlp." not in name}
    model.load_state_dict(state, strict=False)
    with torch.no_grad():
        for layer, like in zip(model.model.layers, dense.model.layers, strict=True):
            experts = layer.mlp.experts
            for number in range(EXPERTS):
                experts.gate_up_proj[number] = torch.cat(
                    [noisy(one.weight, noise) for one in (like.mlp.gate_proj, like.mlp.up_proj)]
                )
                experts.down_proj[number] = noisy(like.mlp.down_proj.weight, noise)
            nn.init.normal_(layer.mlp.gate.weight, std=0.5)
    return model


def noisy(weight: torch.Tensor, noise: float) -> torch.Tensor:
    """Return a matrix with noise of its own size."""
    return weight + torch.randn_like(weight) * weight.std() * noise


def save(model: Any, folder: Path) -> None:
    """Save the mixture in bfloat16, with the embedded model's tokenizer."""
    model.to(torch.bfloat16).save_pretrained(folder)
    for name in BESIDE_WEIGHTS:
        if (MODEL_DIR / name).is_file():
            shutil.copyfile(MODEL_DIR / name, folder / name)


if __name__ == "__main__":
    main()
