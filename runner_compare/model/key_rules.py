"""Rules that determine which config keys distinguish two runs. Keys that cannot change an answer are
excluded.

Different values with the same meaning do not count as a difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from types import MappingProxyType

from runner_compare.model.data import ENGINE, config_group

MODEL_KEYS = ("model.", "quantization.", "lora.", "rope.")

# Of the keys that jobs of the runner have, those that never change an answer, whichever choices a
# job has made
INERT = frozenset(
    {
        *(
            "tracking",
            "profile",
            "gate",
            "metrics",
            "metrics.package",
            "notes",
            "output_dir",
            "print",
            "plan",
            "rerun",
        ),
        *("workers", "job_timeout_s", "price_kwh", "trackers"),
        *(
            "generation.prompt_cache_mib",
            "generation.speculate",
            "quantization.allow_partial",
            "rope.beyond_trained",
        ),
        *(
            f"model.{name}"
            for name in (
                "backend",
                "backoff_s",
                "cache_dir",
                "check_memory",
                "compare",
                "concurrency",
                "connect_timeout_s",
                "delay_s",
                "executable",
                "first_token_timeout_s",
                "key_variable",
                "memory_share",
                "port",
                "price_in",
                "price_out",
                "python",
                "random_weights",
                "request_timeout_s",
                "retries",
                "stages",
                "start_timeout_s",
                "timeout_s",
                "tokenizer",
            )
        ),
        *(
            f"task.{name}"
            for name in (
                "answer_key",
                "answer_marker",
                "answer_type",
                "branches",
                "check_overlap_with",
                "choices_key",
                "choices_seed",
                "cluster",
                "compare",
                "debug",
                "drain_timeout_s",
                "durable",
                "early_stop_comparisons",
                "early_stop_margin",
                "early_stop_vs",
                "exact",
                "executable",
                "format",
                "idle_timeout_s",
                "keep_top_k",
                "load",
                "max_body_kib",
                "max_connections",
                "max_new_tokens",
                "max_open",
                "model_name",
                "offset",
                "output",
                "overwrite",
                "pictures",
                "prompt",
                "python",
                "question_key",
                "reference",
                "rotate",
                "shots_split",
                "show",
                "show_prompt",
                "shuffle_seed",
                "split",
                "subset",
                "timeout_s",
                "tool_call_format",
                "tool_placement",
                "train_offset",
                "write_timeout_s",
            )
        ),
    }
)

# Of these, what does count in a task of this name
COUNTING_IN = {
    "gsm8k": {
        f"task.{name}"
        for name in (
            "branches",
            "check_overlap_with",
            "compare",
            "debug",
            "drain_timeout_s",
            "durable",
            "exact",
            "executable",
            "format",
            "idle_timeout_s",
            "keep_top_k",
            "load",
            "max_body_kib",
            "max_connections",
            "max_new_tokens",
            "max_open",
            "model_name",
            "output",
            "overwrite",
            "pictures",
            "prompt",
            "python",
            "reference",
            "show",
            "split",
            "timeout_s",
            "tool_call_format",
            "tool_placement",
            "train_offset",
            "write_timeout_s",
        )
    },
    "tools": {"task.tool_call_format", "task.tool_placement"},
}

NEVER_COUNTING_GUESSES = ("auto", "off")  # ways of guessing tokens that change no answer


class KeyRules:
    """Rules for the config keys of runs from other tools, whose keys are translated to the runner's key
    names.
    """

    # The groups and keys in the order in which they are shown
    order: Sequence[str] = ("model", "quantization", "lora", "rope", "generation", "task", "seed")
    # For a key and its value the value that means the same
    written_alike: Mapping[tuple[str, str], str] = MappingProxyType(
        {("task.check_invariance", "auto"): "0", ("generation.speculate", "off"): "auto"}
    )
    # What runs have that lack a key: those that were recorded before it existed, or after it was removed
    defaults: Mapping[str, str] = MappingProxyType(
        {
            "quantization.skip": "[]",
            "quantization.overrides": "{}",
            "generation.kv_cache": "as_model",
            "generation.speculate": "auto",
            "generation.thinking_tokens": "null",
            "generation.thinking_end": "null",
            "generation.thinking_tags": "[]",
            "lora.merge_dtype": "auto",
            "lora.merge_order": "null",
            "lora.revision": "null",
            "rope.beyond_trained": "false",
            "task.attack": "none",
            "task.attack_agent": "1",
            "task.context_lengths": "[]",
            "task.last_tokens": "256",
            "task.match": "null",
            "task.node_pruning_rate": "0.2",
            "task.role_adapters": "{}",
        }
    )

    def find_keys_without_effect(self, config: Mapping[str, str]) -> Set[str]:
        """Return the groups and keys that cannot change the results of a run."""
        counting = COUNTING_IN.get(config.get("task.name", ""), set())
        is_guessed = config.get("generation.speculate", "auto") not in NEVER_COUNTING_GUESSES
        return INERT - counting - ({"generation.speculate"} if is_guessed else set())

    def find_differing_keys(self, configs: Sequence[dict[str, str]]) -> list[str]:
        """Return the keys that differ between runs, in config order.

        Keys that cannot change results are omitted.
        """
        alike, defaults = self.written_alike, self.defaults

        def normalized_value(config: dict[str, str], key: str) -> str | None:
            written = config.get(key, defaults.get(key))
            return written if written is None else alike.get((key, written), written)

        keys = self.find_keys_affecting_results(configs)
        return [key for key in keys if len({normalized_value(config, key) for config in configs}) > 1]

    def find_keys_affecting_results(self, configs: Sequence[dict[str, str]]) -> list[str]:
        """Return the keys that can change the runs' results, in config order."""
        order = [*self.order]

        def config_order(key: str) -> tuple[int, bool, str]:
            top = config_group(key)
            return ((order.index(top) if top in order else len(order)), not key.endswith(".name"), key)

        counting = set[str]()
        for config in configs:
            inert = self.find_keys_without_effect(config)
            counting |= {key for key in config if not {key, config_group(key)} & inert}
        return sorted(counting, key=config_order)


def select_distinguishing_keys(keys: list[str], configs: list[dict[str, str]]) -> list[str]:
    """Omit the keys that have a value only because of the chosen group choice or engine.

    nf4 always has double_quant and `none` never has it: a column for it is useful only if nf4
    occurs with both values. Likewise, only llama.cpp or vLLM have keys of their own engine.
    """

    def is_distinguishing_key(key: str) -> bool:
        values = {config.get(key) for config in configs}
        by_engine = ENGINE in keys and key != ENGINE and config_group(key) == config_group(ENGINE)
        follows = by_engine or f"{config_group(key)}.name" in keys
        return not (None in values and len(values) == 2 and follows)

    return [key for key in keys if is_distinguishing_key(key)]
