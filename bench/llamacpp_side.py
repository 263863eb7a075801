"""One run of llama.cpp in a process of its own: see engines.py. Its environment has only
llama-cpp-python.

It uses llama.cpp's own batch calls: the shared prefix is read once and copied to every sequence,
the rests are read together, and then each step decodes one token of every row. The model is a .gguf
file without a tokenizer.
"""

from __future__ import annotations

import os
import time
from itertools import takewhile
from typing import Any

import numpy as np
from standing_alone import answer, peak_mib, read_job, reset_peak, resident_mib

BATCH = 2048  # tokens that one call takes


class Context:
    """A loaded model with room for some sequences."""

    def __init__(self, file: str, rows: int, places: int, threads: int) -> None:
        import llama_cpp  # type: ignore[import-not-found]

        self.lib = llama_cpp
        llama_cpp.llama_backend_init()
        self.log = _quiet(llama_cpp)  # kept alive, because llama.cpp calls it
        llama_cpp.llama_log_set(self.log, None)
        self.model = llama_cpp.llama_model_load_from_file(
            file.encode(), llama_cpp.llama_model_default_params()
        )
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx, settings.n_batch, settings.n_ubatch, settings.n_seq_max = (places, BATCH, 512, rows)
        settings.n_threads = settings.n_threads_batch = threads
        settings.kv_unified = True  # otherwise a copied sequence would be copied byte by byte
        self.context = llama_cpp.llama_init_from_model(self.model, settings)
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.batch = llama_cpp.llama_batch_init(BATCH, 0, 1)

    def read(self, tokens: list[tuple[int, int, int, bool]]) -> list[int]:
        """Run (token, position, sequence, wanted) through the model; return the likeliest next
        token of each wanted."""
        picked: list[int] = []
        for first in range(0, len(tokens), BATCH):
            some = tokens[first : first + BATCH]
            self.batch.n_tokens = len(some)
            for at, (token, place, sequence, wanted) in enumerate(some):
                self.batch.token[at], self.batch.pos[at] = token, place
                self.batch.n_seq_id[at], self.batch.seq_id[at][0] = 1, sequence
                self.batch.logits[at] = wanted
            if failed := self.lib.llama_decode(self.context, self.batch):
                raise SystemExit(f"llama_decode failed with {failed}")
            for at, (_, _, _, wanted) in enumerate(some):
                if wanted:
                    logits = self.lib.llama_get_logits_ith(self.context, at)
                    picked.append(int(np.ctypeslib.as_array(logits, (self.vocabulary,)).argmax()))
        return picked

    def copy_to(self, rows: int) -> None:
        """Copy the first sequence's cache to the others."""
        memory = self.lib.llama_get_memory(self.context)
        for row in range(1, rows):
            self.lib.llama_memory_seq_cp(memory, 0, row, -1, -1)


def _quiet(lib: Any) -> Any:
    @lib.llama_log_callback  # type: ignore[untyped-decorator]
    def nothing(level: int, text: bytes, data: Any) -> None:
        """Ignore the message."""

    return nothing


def main() -> None:
    """Run the job and write the outcome; when time is up, with the tokens so far."""
    job = read_job()
    prompts, limits = job["prompts"], job["new_tokens"]
    rows, threads = len(prompts), job["threads"] or len(os.sched_getaffinity(0))
    shared = (
        len(list(takewhile(lambda column: len(set(column)) == 1, zip(*prompts, strict=False))))
        if rows > 1
        else 0
    )
    shared = min(shared, *(len(ids) - 1 for ids in prompts))
    places = shared + sum(len(ids) - shared + most for ids, most in zip(prompts, limits, strict=True))
    started = time.perf_counter()
    context = Context(job["settings"]["gguf"], rows, places + 256, threads)
    load_s, loaded_mib = time.perf_counter() - started, resident_mib()
    reset_peak()
    started, notes = time.perf_counter(), []
    context.read([(token, place, 0, False) for place, token in enumerate(prompts[0][:shared])])
    context.copy_to(rows)
    own = [
        (token, place, row, place == len(ids) - 1)
        for row, ids in enumerate(prompts)
        for place, token in enumerate(ids[shared:], start=shared)
    ]
    tokens = [[token] for token in context.read(own)]
    prefill_s = time.perf_counter() - started
    while live := [row for row in range(rows) if len(tokens[row]) < limits[row]]:
        if job["limit_s"] is not None and time.perf_counter() - started > job["limit_s"]:
            notes.append("the time was up")
            break
        step = [(tokens[row][-1], len(prompts[row]) + len(tokens[row]) - 1, row, True) for row in live]
        for row, token in zip(live, context.read(step), strict=True):
            tokens[row].append(token)
    total_s = time.perf_counter() - started
    measured = {"load_s": load_s, "total_s": total_s, "prefill_s": prefill_s, "decode_s": total_s - prefill_s}
    measured |= {"loaded_mib": loaded_mib, "peak_mib": peak_mib()}
    answer(job, tokens, threads=threads, notes=notes, **measured)


if __name__ == "__main__":
    main()
