"""The draft model of generation.speculate, or the model's own head: what is asked for, and whether it
fits the model. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from runner_base import ConfigError, DataError, load_json, names_gguf_file
from runner_engine.checkpoints import gguf_file
from runner_engine.checkpoints.layer_kinds import layer_kinds
from runner_engine.checkpoints.own_head import check_head
from runner_engine.checkpoints.resolve import ResolvedModel, draft_model, resolve
from runner_engine.quantization import CHOICES
from runner_engine.quantization.base import CheckpointSource, QuantizationConfig
from runner_engine.settings.lora import LoraConfig
from runner_engine.settings.rope import RopeConfig
from runner_engine.settings.speculation import KEY, Guesser, Speculate
from runner_engine.spec import OWN_HEAD, ModelSpec

MOST_NAMED = 3  # tokens that a message shows
FILLING = 100  # one in so many tokens of a model may be missing in a draft: they only fill a table up
LISTED = "tokenizer.ggml.tokens"  # where a .gguf file lists them


def draft_of(resolved: ResolvedModel) -> ResolvedModel | None:
    """Return the draft model beside a model, or its own head; None where none guesses."""
    how = resolved.spec.generation.speculation
    is_model = how.kind in (Guesser.draft, Guesser.mtp)
    return resolve(draft_spec(resolved.spec, how)) if is_model else None


def draft_spec(spec: ModelSpec, how: Speculate) -> ModelSpec:
    """Return what the engine is asked for as a draft: never with the adapter, whose model checks
    its guesses."""
    if how.kind is Guesser.mtp:
        model, quantization, rope = spec.model, QuantizationConfig(), spec.rope
    elif how.model is None:
        model, quantization, rope = spec.model, spec.quantization, spec.rope
    else:
        model = draft_model(spec.model, how.model)
        is_file = names_gguf_file(how.model)
        quantization = CHOICES["gguf"]() if is_file else QuantizationConfig()
        rope = RopeConfig()
    if how.quantization is not None:
        if how.quantization not in CHOICES.names():
            known = ", ".join(CHOICES.names())
            raise ConfigError(
                f"quantization must be one of {known}", key=KEY, value=how, code="unknown_choice"
            )
        quantization = CHOICES[how.quantization]()
        _refuse_second_quantization(model.name, quantization, how)
    generation = replace(spec.generation, speculate="off", kv_cache="as_model")
    return ModelSpec(
        model,
        quantization,
        LoraConfig(),
        rope,
        generation,
        spec.seed,
        spec.workload,
        first_layers=OWN_HEAD if how.kind is Guesser.mtp else how.layers,
    )


def _refuse_second_quantization(name: str, wanted: QuantizationConfig, how: Speculate) -> None:
    """Refuse to quantize the weights of a .gguf file once more, as `draft` alone would."""
    if names_gguf_file(name) and wanted.source is not CheckpointSource.gguf:
        raise ConfigError(
            f"the draft {name} is a .gguf file, and quantization {wanted.name} cannot be made of it. Use "
            "the file's first layers, {kind: draft, layers: N}; a smaller model, {kind: draft, model: FILE.gguf}; or "
            f"{KEY}=ngram",
            key=KEY,
            value=how,
            code="unsupported",
        )


def kept_share(draft: ResolvedModel, weights: Mapping[str, int]) -> float:
    """Return the share of a draft's weights, given by part, that stays if it keeps only its first
    layers."""
    kept, layers = draft.spec.first_layers, draft.files.text_settings.get("num_hidden_layers")
    whole = sum(weights.values())
    if not kept or not layers or not whole:
        return 1.0
    ends = sum(weights.get(part, 0) for part in ("embedding", "head"))
    return (ends + (whole - ends) * float(kept) / float(layers)) / whole


@contextmanager
def checked_draft(resolved: ResolvedModel) -> Iterator[ResolvedModel | None]:
    """Give the draft beside a model, whose libraries are here, or the head that the model has; a
    mistake in it names the key that asks for it."""
    how = resolved.spec.generation.speculation
    if how.kind is Guesser.mtp:
        check_head(how, resolved.files)
    draft = draft_of(resolved)
    try:
        for choice in () if draft is None else draft.mix.choices:
            choice.require_packages(f"its draft in {choice.name}")
        yield draft
    except ConfigError as error:
        raise type(error)(str(error), key=KEY, value=how, code=error.code) from error


def check_guesses(resolved: ResolvedModel, draft: ResolvedModel | None) -> None:
    """Reject a draft that does not fit the model: its layers, or its tokens."""
    how = resolved.spec.generation.speculation
    if draft is None or how.kind is Guesser.mtp:
        return
    layers = draft.files.text_settings.get("num_hidden_layers")
    if how.layers is not None and isinstance(layers, int) and how.layers > layers:
        raise ConfigError(
            f"the draft has {layers} layers, and not {how.layers}", key=KEY, value=how, code="bad_value"
        )
    _check_attends(how, draft)
    own, its = _tokens(resolved), _tokens(draft)
    if how.model is not None and own is not None and its is not None:  # else when both are loaded
        check_tokens(how, own, its)


def _check_attends(how: Speculate, draft: ResolvedModel) -> None:
    """Reject first layers of a hybrid that end before its first attention: no pass can be checked by what it keeps."""
    kinds = layer_kinds(draft.files.text_settings)
    least = next((number for number, kind in enumerate(kinds, start=1) if kind.attends), None)
    if how.layers is not None and least is not None and how.layers < least:
        raise ConfigError(
            f"the draft's first {how.layers} layers have no attention. Use layers: {least} or more",
            key=KEY,
            value=how,
            code="unsupported",
        )


def check_tokens(how: Speculate, own: Mapping[int, str], its: Mapping[int, str]) -> None:
    """Reject a draft whose tokens are not those of the model, number by number; rows that only fill
    a table up do not count."""
    others = [number for number in own if number in its and own[number] != its[number]]
    missing = [number for number in own if number not in its]
    if not others and len(missing) <= len(own) // FILLING:
        return
    shown = ", ".join(
        f"{number} is {own[number]!r} and {its.get(number)!r}" for number in (others or missing)[:MOST_NAMED]
    )
    count = len(others) + len(missing)
    raise ConfigError(
        f"a draft must have the model's own tokens, and {count:,} of {len(own):,} differ ({shown}): "
        "use a draft of the same family",
        key=KEY,
        value=how,
        code="mismatch",
    )


def _tokens(resolved: ResolvedModel) -> dict[int, str] | None:
    """Return the texts of a model's tokens by their numbers, as its files have them; None where
    these cannot be read here."""
    path = resolved.files.path
    try:
        if path.is_file():
            header = gguf_file.read_header(path)
            return dict(enumerate(gguf_file.read_array(header, LISTED, of_texts=True)))
        file = path / "tokenizer.json"
        return _of_json(load_json(file)) if file.is_file() else None
    except (DataError, OSError, AttributeError, LookupError, TypeError, ValueError):
        return None


def _of_json(settings: dict[str, Any]) -> dict[int, str] | None:
    vocabulary = settings["model"]["vocab"]
    if isinstance(vocabulary, dict):
        tokens = {number: text for text, number in vocabulary.items()}
    else:  # a unigram's pairs of text and score
        tokens = {number: pair[0] for number, pair in enumerate(vocabulary)}
    return tokens | {one["id"]: one["content"] for one in settings.get("added_tokens") or ()}
