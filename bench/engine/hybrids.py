"""How fast do hybrids decode in the stream, beside static batches? `python bench/engine/hybrids.py [SHAPE …]`.

Models of random weights in bfloat16 in the shapes of Qwen3.5-0.8B and LFM2-350M, with fewer layers and a smaller
vocabulary. `before` is transformers' own code with its own cache, in static batches (model.attention=sdpa): so these
families were decoded before their states had a place in the stream. Both are measured by turns, so that other work on
the machine affects both.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from runner_base import Dtype
from runner_engine import CHOICES, LocalModelConfig, ModelSpec, Request, complete, resolve
from runner_engine.local.engine import LocalEngine
from runner_engine.sessions.stats import EngineStats
from runner_engine.settings.model import Attention

sys.path[:0] = [str(Path(__file__).resolve().parents[up]) for up in (1, 2)]  # bench/, and tools/ beside it

from engines import head_line  # noqa: E402
from state_space_shapes import SHAPES as STATE_SPACES  # noqa: E402
from state_space_shapes import WITHOUT_ATTENTION  # noqa: E402

from tools import families  # noqa: E402

VOCABULARY = 16_384
ROWS = (1, 8, 32)
WAYS = {"before": Attention.sdpa, "stream": Attention.auto}


def qwen3_5(layers: int) -> Any:
    """Return the shape of Qwen3.5-0.8B: three layers of the gated delta rule, then one that attends."""
    from transformers import Qwen3_5TextConfig

    return Qwen3_5TextConfig(
        hidden_size=1024, intermediate_size=3584, num_hidden_layers=layers, num_attention_heads=8,
        num_key_value_heads=2, head_dim=256, linear_num_key_heads=16, linear_num_value_heads=16,
        linear_key_head_dim=128, linear_value_head_dim=128, vocab_size=VOCABULARY, max_position_embeddings=4096,
        eos_token_id=2, pad_token_id=0, bos_token_id=None, tie_word_embeddings=True,
    )  # fmt: skip


def lfm2(layers: int) -> Any:
    """Return the shape of LFM2-350M: ten of its sixteen layers are short convolutions."""
    from transformers import Lfm2Config

    kinds = ["conv", "conv", "full_attention", "conv", "conv", "full_attention", "conv", "conv"] * (layers // 8 + 1)
    return Lfm2Config(
        hidden_size=1024, intermediate_size=6656, num_hidden_layers=layers, num_attention_heads=16,
        num_key_value_heads=8, layer_types=kinds[:layers], vocab_size=VOCABULARY, max_position_embeddings=4096,
        eos_token_id=2, pad_token_id=0, bos_token_id=None,
    )  # fmt: skip


SHAPES: dict[str, Callable[[int], Any]] = {"Qwen3.5-0.8B": qwen3_5, "LFM2-350M": lfm2, **STATE_SPACES}


class Measured:
    """An open engine, and what was counted by the number of rows."""

    def __init__(self, folder: Path, attention: Attention) -> None:
        model = LocalModelConfig(name=str(folder), device="cpu", dtype=Dtype.bfloat16, attention=attention)
        self.engine = LocalEngine(resolve(ModelSpec(model, CHOICES["none"]())))
        self.decoding = self.engine.load().facts["decoding"]
        self.prefill: dict[int, list[float]] = {rows: [] for rows in ROWS}
        self.decode: dict[int, list[float]] = {rows: [] for rows in ROWS}
        self.run(2, 32, 4)

    def run(self, rows: int, prompt: int, new: int) -> EngineStats:
        """Decode prompts that share nothing, and return what was counted."""
        before = self.engine.stats - EngineStats()
        generator = torch.Generator().manual_seed(rows)
        prompts = torch.randint(3, families.VOCABULARY, (rows, prompt), generator=generator).tolist()
        asked = [Request(at, tuple(ids), ignore_eos=True, max_new_tokens=new) for at, ids in enumerate(prompts)]
        complete(self.engine, asked, rows)
        return self.engine.stats - before

    def measure(self, rows: int, prompt: int, new: int) -> None:
        """Time a number of rows once."""
        counted = self.run(rows, prompt, new)
        self.prefill[rows].append(counted.prefill_tokens / counted.prefill_s)
        self.decode[rows].append(counted.decode_tokens / counted.decode_s)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="*", help=f"of {', '.join(SHAPES)}; default: all")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompt", type=int, default=128, help="tokens of each prompt")
    parser.add_argument("--new", type=int, default=32, help="new tokens of each row")
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    print(head_line(["bench/engine/hybrids.py", *sys.argv[1:]], torch.get_num_threads()))
    print(f"\n{options.prompt} tokens of prompt, {options.new} new ones; tokens/s: the median (least to most)\n")
    print("| shape | rows | prefill before | stream | times | decode before | stream | times |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    for name in options.shapes or SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            save(SHAPES[name](options.layers), Path(folder))
            before = Attention.eager if name in WITHOUT_ATTENTION else WAYS["before"]
            ways = {way: Measured(Path(folder), attention) for way, attention in (WAYS | {"before": before}).items()}
            for rows in ROWS:
                for _ in range(options.rounds):
                    for way in ways.values():
                        way.measure(rows, options.prompt, options.new)
                print(line(name, rows, ways), flush=True)
            for way in ways.values():
                print(f"\n{name}: {way.decoding}", file=sys.stderr)
                way.engine.close()


def save(config: Any, folder: Path) -> None:
    """Save a model of random weights, with a tokenizer of bytes."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).bfloat16().save_pretrained(folder)
    families._tokenizer().save_pretrained(folder)


def line(name: str, rows: int, ways: dict[str, Measured]) -> str:
    """Return a line of the table."""
    cells = [name, str(rows)]
    for what in ("prefill", "decode"):
        rates = {way: getattr(measured, what)[rows] for way, measured in ways.items()}
        middle = {way: statistics.median(some) for way, some in rates.items()}
        cells += [f"{middle[way]:,.0f} ({min(some):,.0f} to {max(some):,.0f})" for way, some in rates.items()]
        cells.append(f"{middle['stream'] / middle['before']:.1f}")
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
