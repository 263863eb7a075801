"""The logits of some texts by llama.cpp, in a process of its own: see gguf_files.py. No runner, no
torch."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from llamacpp_side import _quiet


def main() -> None:
    """Read the texts one by one and write all logits, [tokens, vocabulary]."""
    import llama_cpp  # type: ignore[import-not-found]

    job = json.loads(Path(sys.argv[1]).read_text())
    llama_cpp.llama_backend_init()
    log = _quiet(llama_cpp)  # kept alive, because llama.cpp calls it
    llama_cpp.llama_log_set(log, None)
    model = llama_cpp.llama_model_load_from_file(job["gguf"].encode(), llama_cpp.llama_model_default_params())
    settings = llama_cpp.llama_context_default_params()
    longest = max(map(len, job["ids"]))
    settings.n_ctx = settings.n_batch = settings.n_ubatch = longest
    settings.type_k = settings.type_v = llama_cpp.GGML_TYPE_F32
    settings.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    context = llama_cpp.llama_init_from_model(model, settings)
    vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    batch = llama_cpp.llama_batch_init(longest, 0, 1)
    found = []
    for ids in job["ids"]:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        batch.n_tokens = len(ids)
        for at, token in enumerate(ids):
            batch.token[at], batch.pos[at] = token, at
            batch.n_seq_id[at], batch.seq_id[at][0] = 1, 0
            batch.logits[at] = True
        if failed := llama_cpp.llama_decode(context, batch):
            raise SystemExit(f"llama_decode failed with {failed}")
        for at in range(len(ids)):
            logits = llama_cpp.llama_get_logits_ith(context, at)
            found.append(np.ctypeslib.as_array(logits, (vocabulary,)).copy())
    np.save(job["answer"], np.array(found))


if __name__ == "__main__":
    main()
