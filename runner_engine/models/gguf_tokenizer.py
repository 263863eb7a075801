"""Builds a tokenizer from the vocabulary, scores and merges in the header of a .gguf file.

The steps equal those of transformers' own reader, which takes seconds for a large vocabulary:
 the same vocabulary, merges, normalizer and added tokens, in the same order. A test
compares the two. Only digits differ where a model was trained on single digits
(`splits_single_digits`): transformers leaves them together, llama.cpp splits them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, Unigram

from runner_base import DataError, format_truncated_repr
from runner_base.garbage_collection import pause_garbage_collection
from runner_base.notes import Note, note
from runner_engine.checkpoints.gguf_file import is_supported_architecture, read_gguf_header, read_header_array
from runner_engine.checkpoints.gguf_header import GgufHeader
from runner_engine.checkpoints.gguf_names import (
    SPECIAL_TOKENS,
    build_transformers_config_dict,
    splits_single_digits,
)
from runner_engine.checkpoints.model_files import list_gguf_files

# files of a model that do not change its tokenizer
ALONE = {"model.gguf", "generation_config.json"}
CONTROL, OWN = 3, 4  # types of tokens: llama.cpp's control tokens, and those that a user defined
SPACE = "\u2581"  # stands for a space in SentencePiece's tokens
TEMPLATE = "tokenizer.chat_template"  # further ones are named behind a dot
EXTRA = 100  # T5's blanks, <extra_id_0> to <extra_id_99>
CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r"\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CASES = (rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*")
LLAMA3 = rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{TAIL}"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
QWEN35 = rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{TAIL}"
TEKKEN = rf"{CASES[0]}|{CASES[1]}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{TAIL}"
GPT4O = rf"{CASES[0]}{CONTRACTIONS}?|{CASES[1]}{CONTRACTIONS}?|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{TAIL}"
# where a text may be cut before its pieces are merged, by tokenizer.ggml.pre; others have GPT-2's
# pattern
SPLITS = {
    LLAMA3: (
        *(
            "llama3",
            "llama-v3",
            "llama-bpe",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ),
        *("dbrx", "smaug-bpe"),
    ),
    TEKKEN: ("tekken",),
    QWEN2: ("qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez"),
    QWEN35: ("qwen35",),
    GPT4O: ("gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"),
}
SPLIT_OF = {name: pattern for pattern, names in SPLITS.items() for name in names}


@dataclass(frozen=True)
class GgufVocabulary:
    """Tokens and tokenizer metadata from the header of a .gguf file."""

    header: GgufHeader
    tokens: list[str]

    def read_tokenizer_array(self, metadata_key: str, is_text: bool) -> list[Any] | None:
        """Read an array of tokenizer metadata from the .gguf file. Returns None if the array is missing."""
        name = f"tokenizer.ggml.{metadata_key}"
        return read_header_array(self.header, name, is_text) if name in self.header.arrays else None

    def read_token_scores(self) -> list[float]:
        """Read the score of each token. Raises DataError if one of the scores is NaN."""
        scores = read_header_array(self.header, "tokenizer.ggml.scores", is_text=False)
        if any(map(math.isnan, scores)):
            raise DataError("a score in tokenizer.ggml.scores is NaN", key=self.header.file, code="damaged")
        return scores

    def read_merges(self, tokens: list[str], scores: list[float] | None = None) -> list[tuple[str, str]]:
        """Return the BPE merges in order of priority. If the file lists none, derive the merges
        from the tokens.
        """
        listed = self.read_tokenizer_array("merges", is_text=True)
        if listed is None:
            return _derive_bpe_merges(tokens, self.read_token_scores() if scores is None else scores)
        merges: list[Any] = [tuple(merge.split(" ")) for merge in listed]
        if wrong := next((merge for merge in merges if len(merge) != 2), None):
            raise DataError(
                f"tokenizer.ggml.merges: each merge must have two tokens, but found {wrong}",
                key=self.header.file,
                code="damaged",
            )
        return merges


def can_build_tokenizer(path: Path) -> bool:
    """Whether build_tokenizer supports this .gguf file. If its folder has tokenizer files,
    transformers reads them instead.
    """
    header = read_gguf_header(path)
    is_alone = list_gguf_files(path).keys() <= ALONE
    return (
        is_alone
        and is_supported_architecture(header)
        and header.metadata.get("tokenizer.ggml.model") in MAKERS
    )


def build_slow_tokenizer_notes(path: Path) -> list[Note]:
    if not path.is_file() or can_build_tokenizer(path):
        return []
    header = read_gguf_header(path)
    if not is_supported_architecture(header):
        what = note("its_architecture", name=header.architecture)
    elif (kind := header.metadata.get("tokenizer.ggml.model")) not in MAKERS:
        what = note("its_tokenizer", kind=format_truncated_repr(kind))
    else:
        beside = ", ".join(name for name in list_gguf_files(path) if name not in ALONE)
        what = note("its_tokenizer_with_files", files=beside)
    return [note("read_in_python", file=path.name, what=what)]


def build_tokenizer(path: Path, padding_side: str) -> Any:
    """Build the tokenizer of a .gguf file, as an instance of the tokenizer class that transformers
    uses for the model.
    """
    from transformers import CONFIG_MAPPING, TOKENIZER_MAPPING, TokenizersBackend

    header = read_gguf_header(path)
    metadata = header.metadata
    vocabulary = GgufVocabulary(header, read_header_array(header, "tokenizer.ggml.tokens", is_text=True))
    kind = metadata["tokenizer.ggml.model"]
    maker = (
        SENTENCEPIECE.get(header.architecture, _build_llama_tokenizer) if kind == "llama" else MAKERS[kind]
    )
    with pause_garbage_collection():  # a tuple for each merge
        made = maker(vocabulary)
    _add_control_and_user_tokens(made, vocabulary, is_byte_level=kind == "gpt2")
    if (split := SPLIT_OF.get(metadata.get("tokenizer.ggml.pre", ""))) is not None:
        by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        made.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(split), "isolated"), by_bytes]
        )
    elif splits_single_digits(metadata):
        by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), by_bytes]
        )
    settings: dict[str, Any] = {
        f"{ours}_token": _find_special_token(vocabulary, its) for its, ours in SPECIAL_TOKENS.items()
    }
    for key in ("add_bos_token", "add_eos_token"):
        if f"tokenizer.ggml.{key}" in metadata:
            settings[key] = metadata[f"tokenizer.ggml.{key}"]
    if kind == "llama":
        # as in llama.cpp, where older files do not say it
        settings.setdefault("add_bos_token", True)
    if TEMPLATE in metadata:
        further = {
            name.removeprefix(f"{TEMPLATE}."): metadata[name]
            for name in metadata
            if name.startswith(f"{TEMPLATE}.")
        }
        default = metadata[TEMPLATE]
        settings["chat_template"] = {"default": default, **further} if further else default
    config_class = CONFIG_MAPPING[build_transformers_config_dict(header)["model_type"]]
    tokenizer_class: Any = TOKENIZER_MAPPING.get(config_class, TokenizersBackend)
    place = {"name_or_path": str(path.parent), "is_local": True, "local_files_only": True}
    return tokenizer_class(
        tokenizer_object=_SharedTokenizer(made), padding_side=padding_side, **place, **settings
    )


class _SharedTokenizer:
    """Wraps a tokenizer so that `copy.deepcopy` returns the same tokenizer instead of a copy."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.made = tokenizer

    def __deepcopy__(self, _memo: dict[int, Any]) -> Tokenizer:
        return self.made


def _find_special_token(vocabulary: GgufVocabulary, name: str) -> str | None:
    key = f"tokenizer.ggml.{name}_token_id"
    if (number := vocabulary.header.metadata.get(key)) is None:
        return None
    if type(number) is not int or not 0 <= number < len(vocabulary.tokens):
        raise DataError(
            f"{key}={number!r}, but the tokenizer has {len(vocabulary.tokens)} tokens",
            key=vocabulary.header.file,
            code="damaged",
        )
    return vocabulary.tokens[number]


def _build_byte_level_tokenizer(vocabulary: GgufVocabulary) -> Tokenizer:
    """Build a byte-level BPE tokenizer like GPT-2's, whose alphabet has one character per byte."""
    spelling = _build_byte_alphabet()
    is_spelled = frozenset(spelling.values()).issuperset
    ids = {
        token if is_spelled(token) else "".join(spelling[byte] for byte in token.encode()): number
        for number, token in enumerate(vocabulary.tokens)
    }
    merges = vocabulary.read_merges(vocabulary.tokens)
    made = Tokenizer(BPE(ids, merges, continuing_subword_prefix="", end_of_word_suffix="", fuse_unk=False))
    made.pre_tokenizer, made.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    return _add_default_special_tokens(made, ("<|endoftext|>",))


def _build_byte_alphabet() -> dict[int, str]:
    """Map each byte to its character in GPT-2's alphabet. Non-printable bytes map to code points from 256."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + at) for at, byte in enumerate(others)}


def _build_llama_tokenizer(vocabulary: GgufVocabulary) -> Tokenizer:
    """Build a SentencePiece-style tokenizer for Llama, which adds a space before the prompt."""
    merges = vocabulary.read_merges(vocabulary.tokens)
    made = Tokenizer(BPE(_map_token_ids(vocabulary.tokens), merges, fuse_unk=True, byte_fallback=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="first", split=False)
    made.decoder = decoders.Sequence([*_build_sentencepiece_decoders(), decoders.Strip(content=" ", left=1)])
    return _add_default_special_tokens(made, ("<s>", "</s>", "<unk>"))


def _build_phi3_tokenizer(vocabulary: GgufVocabulary) -> Tokenizer:
    """Build Phi-3's tokenizer, which normalizes the prompt instead of splitting it into words.

    Its tokens differ from those of Llama's tokenizer for prompts that begin with a space.
    """
    made = _build_llama_tokenizer(vocabulary)
    made.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    made.pre_tokenizer = None
    return made


def _build_gemma_tokenizer(vocabulary: GgufVocabulary) -> Tokenizer:
    """Build Gemma's tokenizer, in which each run of spaces is one token. Merges follow the order of
    the tokens.
    """
    tokens = [
        SPACE * len(token) if " " in token and not token.strip() else token for token in vocabulary.tokens
    ]
    merges = vocabulary.read_merges(tokens, [-number for number in range(len(tokens))])
    made = Tokenizer(
        BPE(_map_token_ids(tokens), merges, fuse_unk=True, unk_token="<unk>", byte_fallback=True)
    )
    made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    made.decoder = decoders.Sequence(_build_sentencepiece_decoders())
    made.normalizer = normalizers.Replace(" ", SPACE)
    return _add_default_special_tokens(made, ("<bos>", "<eos>", "<unk>", "<pad>", "<mask>"))


def _build_unigram_tokenizer(vocabulary: GgufVocabulary) -> Tokenizer:
    """Build T5's unigram tokenizer. Its sentinel tokens <extra_id_N> are named [PADN] in a .gguf
    file.
    """
    tokens = list(vocabulary.tokens)
    blanks = [number for number, token in enumerate(tokens) if re.match(r"^\[PAD\d+\]$", token)]
    for at, number in enumerate(blanks[:EXTRA]):
        tokens[number] = f"<extra_id_{EXTRA - 1 - at}>"
    made = Tokenizer(
        Unigram([*zip(tokens, vocabulary.read_token_scores(), strict=False)], unk_id=2, byte_fallback=False)
    )
    prefixed = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always", split=True)
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), prefixed])
    made.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="always", split=True)
    _add_default_special_tokens(
        made, ("</s>", "<unk>", "<pad>", *(f"<extra_id_{number}>" for number in range(EXTRA)))
    )
    end = made.token_to_id("</s>")
    made.post_processor = processors.TemplateProcessing(
        single=["$A", "</s>"], pair=["$A", "</s>", "$B", "</s>"], special_tokens=[("</s>", end)]
    )
    return made


MAKERS: dict[str, Callable[[GgufVocabulary], Tokenizer]] = {
    "gpt2": _build_byte_level_tokenizer,
    "llama": _build_llama_tokenizer,
    "t5": _build_unigram_tokenizer,
}
# by architecture; others have Llama's
SENTENCEPIECE = {
    "gemma2": _build_gemma_tokenizer,
    "gemma3": _build_gemma_tokenizer,
    "phi3": _build_phi3_tokenizer,
}


def _map_token_ids(tokens: list[str]) -> dict[str, int]:
    return {token: number for number, token in enumerate(tokens)}


def _build_sentencepiece_decoders() -> list[Any]:
    return [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]


def _add_default_special_tokens(tokenizer: Tokenizer, tokens: Iterable[str]) -> Tokenizer:
    tokenizer.add_tokens([AddedToken(text, special=True) for text in tokens])
    if tokenizer.post_processor is None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="$A:0", pair="$A:0 $B:1", special_tokens=[]
        )
    return tokenizer


def _add_control_and_user_tokens(
    tokenizer: Tokenizer, vocabulary: GgufVocabulary, is_byte_level: bool
) -> None:
    """Add the control tokens and user-defined tokens of the .gguf file. A tokenizer never splits
    them.
    """
    types = vocabulary.read_tokenizer_array("token_type", is_text=False) or []
    of_type: dict[int, list[str]] = {CONTROL: [], OWN: []}
    for token, kind in zip(vocabulary.tokens, types, strict=False):
        if kind in of_type:
            of_type[kind].append(token)
    alphabet = frozenset(_build_byte_alphabet().values()) if is_byte_level else None
    # of bytes, a control token in other letters is one by mistake: it would be a token beyond the
    # vocabulary
    control = [token for token in of_type[CONTROL] if alphabet is None or alphabet.issuperset(token)]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
    own = [token for token in of_type[OWN] if tokenizer.token_to_id(token) is not None]
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in own])


def _derive_bpe_merges(tokens: list[str], scores: list[float]) -> list[tuple[str, str]]:
    """Derive the BPE merges that produce the given tokens, highest score first.

    Merges with equal scores are sorted by length of the left part, then of the right part (longer
    first), then by the tokens' order.
    """
    ids, by_score = _map_token_ids(tokens), dict(zip(tokens, scores, strict=False))
    merges: list[tuple[str, str]] = []
    best_first = sorted(by_score, key=by_score.__getitem__, reverse=True)
    for _, group in groupby(best_first, key=by_score.__getitem__):
        found, equal = [], [*group]
        for token in equal:
            for at in range(len(token) - 1, 0, -1):
                if (left := token[:at]) in ids and (right := token[at:]) in ids:
                    found.append((left, right))
        if len(equal) > 1:
            found.sort(key=lambda pair: (len(pair[0]), len(pair[1])), reverse=True)
        merges += found
    return merges
