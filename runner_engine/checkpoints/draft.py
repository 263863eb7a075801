"""Resolves and checks the draft model or MTP head that generation.speculate names. Imports no
torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from runner_base import ConfigError, DataError, is_gguf_file_name, load_json_object
from runner_engine.checkpoints import gguf_file
from runner_engine.checkpoints.layer_kinds import derive_layer_kinds
from runner_engine.checkpoints.mtp_head import check_mtp_head
from runner_engine.checkpoints.resolved_model import ResolvedModel, build_draft_model_config, resolve_model
from runner_engine.quantization import CHOICES
from runner_engine.quantization.base import CheckpointSource, QuantizationConfig
from runner_engine.settings.lora import LoraConfig
from runner_engine.settings.rope import RopeConfig
from runner_engine.settings.speculation import KEY, DrafterKind, SpeculationConfig
from runner_engine.spec import OWN_HEAD, ModelSpec

MOST_NAMED = 3  # tokens that a message shows
FILLING = 100  # one in so many tokens of a model may be missing in a draft: they only fill a table up
LISTED = "tokenizer.ggml.tokens"  # where a .gguf file lists them


def resolve_draft_model(resolved: ResolvedModel) -> ResolvedModel | None:
    """Resolve the draft model or MTP head. Returns None if speculative decoding uses neither."""
    how = resolved.spec.generation.speculation
    is_model = how.kind in (DrafterKind.draft, DrafterKind.mtp)
    return resolve_model(build_draft_spec(resolved.spec, how)) if is_model else None


def build_draft_spec(spec: ModelSpec, speculation: SpeculationConfig) -> ModelSpec:
    """Build the draft model's spec, without an adapter.

    No adapter is needed, because the adapted main model verifies the draft tokens.
    """
    if speculation.kind is DrafterKind.mtp:
        model, quantization, rope = spec.model, QuantizationConfig(), spec.rope
    elif speculation.model is None:
        model, quantization, rope = spec.model, spec.quantization, spec.rope
    else:
        model = build_draft_model_config(spec.model, speculation.model)
        is_file = is_gguf_file_name(speculation.model)
        quantization = CHOICES["gguf"]() if is_file else QuantizationConfig()
        rope = RopeConfig()
    if speculation.quantization is not None:
        if speculation.quantization not in CHOICES.list_names():
            known = ", ".join(CHOICES.list_names())
            raise ConfigError(
                f"quantization must be one of {known}", key=KEY, value=speculation, code="unknown_choice"
            )
        quantization = CHOICES[speculation.quantization]()
        _reject_requantization(model.name, quantization, speculation)
    generation = replace(spec.generation, speculate="off", kv_cache="as_model")
    return ModelSpec(
        model,
        quantization,
        LoraConfig(),
        rope,
        generation,
        spec.seed,
        spec.workload,
        first_layers=OWN_HEAD if speculation.kind is DrafterKind.mtp else speculation.layers,
    )


def _reject_requantization(
    model_name: str, quantization: QuantizationConfig, speculation: SpeculationConfig
) -> None:
    """Raise ConfigError if a quantization is configured for a draft model in a .gguf file."""
    if is_gguf_file_name(model_name) and quantization.source is not CheckpointSource.gguf:
        raise ConfigError(
            f"the draft {model_name} is a .gguf file, which quantization {quantization.name} cannot "
            "quantize. Use the file's first layers, {kind: draft, layers: N}; "
            f"a smaller model, {{kind: draft, model: FILE.gguf}}; or {KEY}=ngram",
            key=KEY,
            value=speculation,
            code="unsupported",
        )


def compute_kept_draft_weight_fraction(draft: ResolvedModel, weight_bytes: Mapping[str, int]) -> float:
    """Return the fraction of weight bytes that remains after a draft model is truncated to its
    first layers.
    """
    kept, layers = draft.spec.first_layers, draft.files.text_settings.get("num_hidden_layers")
    whole = sum(weight_bytes.values())
    if not kept or not layers or not whole:
        return 1.0
    ends = sum(weight_bytes.get(part, 0) for part in ("embedding", "head"))
    return (ends + (whole - ends) * float(kept) / float(layers)) / whole


@contextmanager
def resolve_and_check_draft_model(resolved: ResolvedModel) -> Iterator[ResolvedModel | None]:
    """Yield the draft model or MTP head after checking it.

    Errors inside the context name the config key generation.speculate.
    """
    how = resolved.spec.generation.speculation
    if how.kind is DrafterKind.mtp:
        check_mtp_head(how, resolved.files)
    draft = resolve_draft_model(resolved)
    try:
        for choice in () if draft is None else draft.quantization_mix.quantizing_configs:
            choice.require_packages(f"its draft in {choice.name}")
        yield draft
    except ConfigError as error:
        raise type(error)(str(error), key=KEY, value=how, code=error.code) from error


def check_draft_compatibility(resolved: ResolvedModel, draft: ResolvedModel | None) -> None:
    """Raise ConfigError if the draft model has too few layers or a different vocabulary."""
    how = resolved.spec.generation.speculation
    if draft is None or how.kind is DrafterKind.mtp:
        return
    layers = draft.files.text_settings.get("num_hidden_layers")
    if how.layers is not None and isinstance(layers, int) and how.layers > layers:
        raise ConfigError(
            f"the draft model has only {layers} layers, fewer than the configured {how.layers}",
            key=KEY,
            value=how,
            code="bad_value",
        )
    _check_draft_has_attention(how, draft)
    own, its = _read_token_texts(resolved), _read_token_texts(draft)
    if how.model is not None and own is not None and its is not None:  # else when both are loaded
        check_same_tokens(how, own, its)


def _check_draft_has_attention(speculation: SpeculationConfig, draft: ResolvedModel) -> None:
    """Raise ConfigError if the first layers of a hybrid draft model have no attention.

    The engine cannot verify draft tokens of such a model.
    """
    kinds = derive_layer_kinds(draft.files.text_settings)
    least = next((number for number, kind in enumerate(kinds, start=1) if kind.has_attention), None)
    if speculation.layers is not None and least is not None and speculation.layers < least:
        raise ConfigError(
            f"the draft model's first {speculation.layers} layers have no attention. Set layers to {least} or more",
            key=KEY,
            value=speculation,
            code="unsupported",
        )


def check_same_tokens(
    speculation: SpeculationConfig, model_tokens: Mapping[int, str], draft_tokens: Mapping[int, str]
) -> None:
    """Raise ConfigError if a token id means different texts in the draft model and the main model.

    Unused ids are ignored.
    """
    others = [
        number
        for number in model_tokens
        if number in draft_tokens and model_tokens[number] != draft_tokens[number]
    ]
    missing = [number for number in model_tokens if number not in draft_tokens]
    if not others and len(missing) <= len(model_tokens) // FILLING:
        return
    shown = ", ".join(
        f"{number} is {model_tokens[number]!r} and {draft_tokens.get(number)!r}"
        for number in (others or missing)[:MOST_NAMED]
    )
    count = len(others) + len(missing)
    raise ConfigError(
        f"the draft model has a different vocabulary: {count:,} of {len(model_tokens):,} tokens differ "
        f"({shown}). Use a draft model of the same family",
        key=KEY,
        value=speculation,
        code="mismatch",
    )


def _read_token_texts(resolved: ResolvedModel) -> dict[int, str] | None:
    """Read the text of each token id from a model's files. Returns None if no readable file lists
    the tokens.
    """
    path = resolved.files.path
    try:
        if path.is_file():
            header = gguf_file.read_gguf_header(path)
            return dict(enumerate(gguf_file.read_header_array(header, LISTED, is_text=True)))
        file = path / "tokenizer.json"
        return _parse_token_texts(load_json_object(file)) if file.is_file() else None
    except (DataError, OSError, AttributeError, LookupError, TypeError, ValueError):
        return None


def _parse_token_texts(tokenizer_config: dict[str, Any]) -> dict[int, str] | None:
    vocabulary = tokenizer_config["model"]["vocab"]
    if isinstance(vocabulary, dict):
        tokens = {number: text for text, number in vocabulary.items()}
    else:  # a unigram's pairs of text and score
        tokens = {number: pair[0] for number, pair in enumerate(vocabulary)}
    return tokens | {one["id"]: one["content"] for one in tokenizer_config.get("added_tokens") or ()}
