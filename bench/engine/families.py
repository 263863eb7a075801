"""How fast is each family that streams, at one small shape? `python bench/engine/families.py [FAMILY …]`.

Every family of docs/families.md that is decoded continuously is built with random weights: 4 layers, a hidden size of
256, 4 heads on 2, an MLP of 512, in bfloat16. A dense qwen3 of the same size is measured beside each, by turns, so that
other work on the machine affects both; `--threads 1 --processor-time` measures what it affects least. A token goes
through more parameters in some families than in others: through how many times qwen3's, says a column of its own, so
that what is more work is not called slow. The last column says whether a pass is a single call of C, or why not.
"""

from __future__ import annotations

import argparse
import logging
import re
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from runner_base import Dtype, processor
from runner_engine import (
    CHOICES,
    LocalModelConfig,
    ModelSpec,
    Request,
    ResolvedModel,
    complete_requests,
    resolve_model,
)
from runner_engine.checkpoints.mixture import compute_checkpoint_expert_mixture_size
from runner_engine.local.engine import LocalEngine
from runner_engine.sessions.stats import EngineStats

# bench/, and tools/ beside it
sys.path[:0] = [str(Path(__file__).resolve().parents[up]) for up in (1, 2)]

from engines import head_line  # noqa: E402
from heading import parse_arguments  # noqa: E402

from tools import families  # noqa: E402

BESIDE = "qwen3"
SHAPE: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "n_embed", "dim", "emb_dim"), 256),
    **dict.fromkeys(("intermediate_size", "ffn_hidden_size", "ffn_dim", "decoder_ffn_dim", "n_inner", "dff"), 512),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"), 4),
    **dict.fromkeys(("head_dim", "attention_head_dim", "dim_head"), 64),
    **dict.fromkeys(("sliding_window", "attention_chunk_size"), 512),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "seq_length"), 512),
    "moe_intermediate_size": 128, "initializer_range": 0.1, "first_k_dense_replace": 1, "num_hidden_groups": 1,
}  # fmt: skip
OVERRIDES: dict[str, dict[str, Any]] = {
    "gemma3n_text": {
        "num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2, "num_kv_shared_layers": 2,
        "intermediate_size": [512] * 4, "activation_sparsity_pattern": [0.95, 0.95, 0.0, 0.0],
    },
    "rwkv": {"attention_hidden_size": 256},
    "zamba2": {
        "layers_block_type": ["linear_attention", "hybrid"] * 2, "hybrid_layer_ids": [1, 3], "n_mamba_heads": 8,
        "mamba_headdim": 64, "mamba_ngroups": 1, "attention_hidden_size": 512, "attention_head_dim": 128,
        "num_key_value_heads": 4,
    },
}  # fmt: skip
PROMPT, ROWS = 16, (16, 1)
SINGLE_CALL, MLPS_APART = "a single call", "calls of C, and modules of Python for MLPs"


class Reasons(logging.Handler):
    """Keeps why the last model's passes are no single call."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.last = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the reason."""
        if found := re.match("passes run operation by operation: (.*)", record.getMessage()):
            self.last = found[1]


class Measured:
    """An open engine of a tiny model, and its tokens/s by the number of rows."""

    def __init__(self, folder: Path, reasons: Reasons, threads: int) -> None:
        model = LocalModelConfig(name=str(folder), device="cpu", dtype=Dtype.bfloat16, threads=threads)
        resolved = resolve_model(ModelSpec(model, CHOICES["none"]()))
        self.active = active_parameters(resolved)
        self.engine = LocalEngine(resolved)
        self.decoding = self.engine.load().facts["decoding"]
        self.rates: dict[int, list[float]] = {rows: [] for rows in ROWS}
        reasons.last = ""
        self.decode(2, 4)
        self.why = reasons.last
        if self.engine.fused is not None:
            self.why = MLPS_APART if self.engine.fused.has_separate_mlps else SINGLE_CALL

    def decode(self, rows: int, new: int) -> EngineStats:
        """Decode prompts that share nothing, and return what was counted."""
        before = self.engine.stats - EngineStats()
        generator = torch.Generator().manual_seed(rows)
        prompts = torch.randint(3, families.VOCABULARY, (rows, PROMPT), generator=generator).tolist()
        asked = [
            Request(at, tuple(ids), ignore_eos=True, max_new_tokens=new) for at, ids in enumerate(prompts)
        ]
        complete_requests(self.engine, asked)
        return self.engine.stats - before

    def measure(self, new: int, by_processor: bool) -> None:
        """Time the decoding of each number of rows once: by the clock, or by the processor's
        time."""
        for rows, rates in self.rates.items():
            started = time.process_time()
            counted = self.decode(rows, new)
            if not by_processor:
                rates.append(counted.decode_tokens / counted.decode_s)
                continue
            spent, started = time.process_time() - started, time.process_time()
            self.decode(rows, 1)  # its first token comes from the prompt
            rates.append(counted.decode_tokens / (spent - (time.process_time() - started)))


def active_parameters(resolved: ResolvedModel) -> int:
    """Return how many parameters a token goes through: of a mixture, those of the chosen experts
    alone."""
    mixture = compute_checkpoint_expert_mixture_size(resolved.files)
    return (
        sum(tensor.num_elements for tensor in resolved.files.tensors)
        if mixture is None
        else mixture.active_parameters
    )


def measured(family: str, folder: Path, reasons: Reasons, threads: int) -> Measured:
    """Build a family in an empty folder and open it."""
    families.build(family, folder)
    return Measured(folder, reasons, threads)


def row_of(family: str, options: argparse.Namespace, beside: Measured, reasons: Reasons) -> str:
    """Return the family's line of the table."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = measured(family, Path(folder), reasons, options.threads)
        except Exception as error:  # noqa: BLE001  # any error: the family has no such shape
            return f"| {family} | | | | | | {type(error).__name__}: {str(error).splitlines()[0][:100]} |"
        cells = [family]
        slower = []
        before = {rows: len(rates) for rows, rates in beside.rates.items()}
        for _ in range(options.rounds):
            model.measure(options.new, options.processor_time)
            beside.measure(options.new, options.processor_time)
        for rows in ROWS:
            own = statistics.median(model.rates[rows])
            other = statistics.median(beside.rates[rows][before[rows] :])
            cells.append(f"{own:,.0f}")
            slower.append(f"{other / own:.2f}")
        why = model.why if model.decoding.startswith("continuous batching") else model.decoding
        model.engine.close()
    return "| " + " | ".join([*cells, *slower, f"{model.active / beside.active:.2f}", why or "?"]) + " |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("families", nargs="*", help="default: all that stream")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--new", type=int, default=48, help="new tokens of each row")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--processor-time", action="store_true", help="of all threads; with one nothing waits in it"
    )
    options = parse_arguments(parser)
    families.SIZES |= SHAPE
    families.OVERRIDES |= OVERRIDES
    families.MAX_PARAMETERS = 50_000_000
    streaming = [name for name, way in families.rows(families.PAGE.read_text()).items() if way == "stream"]
    reasons = Reasons()
    logger = logging.getLogger("runner_engine.decode.compat_probe")
    logger.addHandler(reasons)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    torch.set_grad_enabled(False)
    print(head_line(["bench/engine/families.py", *sys.argv[1:]], options.threads))
    if left_out := processor.parse_disabled_cpu_features():
        print(f"without {', '.join(left_out)} (by {processor.LEFT_OUT})")
    if options.processor_time:
        print("by the processor's time")
    print(
        f"\n{PROMPT} tokens of prompt, {options.new} new ones; {BESIDE} ÷ family: how many times as fast it is; "
        f"active parameters: of a token, ÷ {BESIDE}'s\n"
    )
    print(
        f"| family | tokens/s, 16 rows | 1 row | {BESIDE} ÷ family, 16 rows | 1 row | active parameters | passes |"
    )
    print("|---|---:|---:|---:|---:|---:|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        beside = measured(BESIDE, Path(folder), reasons, options.threads)
        for family in options.families or streaming:
            print(row_of(family, options, beside, reasons), flush=True)


if __name__ == "__main__":
    main()
