"""Texts of --help about config groups and the most used keys."""

from __future__ import annotations

ALL_KEYS = "All groups and keys: runner print=full --help"
GROUPS_HEAD = "Groups: GROUP=CHOICE. The default comes first."
COMMON_KEYS_HEAD = "Common keys: KEY=VALUE, with the defaults"
GROUPS_MEAN = {
    "model": "the weights",
    "quantization": "the number format of the weights",
    "lora": "the adapter",
    "rope": "RoPE scaling, for texts longer than the training context",
    "generation": "how tokens are chosen",
    "task": "the work",
    "tracking": "where results are logged besides output_dir",
    "profile": "several groups at once",
}
COMMON_KEYS = {
    "model.name": "a folder, a .gguf file or a hub id (with model=auto)",
    "model.device": "auto, cpu, cuda or cuda:N",
    "model.dtype": "auto (as the checkpoint), float32, bfloat16 or float16",
    "generation.max_new_tokens": "maximum number of new tokens in an answer",
    "generation.batch_size": "sequences decoded at once; null: as many as memory allows",
    "generation.kv_cache": "KV format, e.g. as_model, int8 or int4",
    "task.data": "a data set by name, a FILE.jsonl, a folder or a hub id",
    "task.split": "the split of the data set",
    "task.limit": "the first N questions; null: all",
    "task.prompt": "chat (chat template), text or lm_eval_5shot",
    "task.shots": "worked examples before each question",
    "task.early_stop_vs": "baseline job; stop as soon as the comparison has a verdict",
    "gate.baseline": "baseline of the release gate that ends a grid",
    "seed": "of all random choices",
    "output_dir": "where jobs and MLflow's database are stored",
    "plan": "true: show jobs, memory and time, and run nothing",
    "print": "output on stdout: table, full, json or none",
    "rerun": "failed: repeat failed questions; all: repeat all finished jobs",
    "workers": "number of processes that run a grid, or auto",
}
