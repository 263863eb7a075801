"""Makes the tokenizer that a .gguf file describes, from the arrays in its header.

The steps are those of transformers' own reading of such a file, which takes seconds for a large
vocabulary: the same vocabulary, merges, normalizer and added tokens, in the same order. A test
compares the two. Only digits differ where a model was trained on single ones
(`cuts_single_digits`): transformers leaves them together, llama.cpp cuts them apart.
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

from runner_base import DataError, short
from runner_base.notes import Note, note
from runner_engine.checkpoints.gguf_file import is_known, read_array, read_header
from runner_engine.checkpoints.gguf_header import Header
from runner_engine.checkpoints.gguf_names import SPECIAL_TOKENS, cuts_single_digits, settings_of
from runner_engine.checkpoints.model_files import of_gguf

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
class Vocabulary:
    """What a .gguf file tells about its tokenizer."""

    header: Header
    tokens: list[str]

    def array(self, key: str, of_texts: bool) -> list[Any] | None:
        """Return an array of the tokenizer; None if the file has none."""
        name = f"tokenizer.ggml.{key}"
        return read_array(self.header, name, of_texts) if name in self.header.arrays else None

    def scores(self) -> list[float]:
        """Return the tokens' scores, which are numbers."""
        scores = read_array(self.header, "tokenizer.ggml.scores", of_texts=False)
        if any(map(math.isnan, scores)):
            raise DataError(
                "tokenizer.ggml.scores: one of them is not a number", key=self.header.file, code="damaged"
            )
        return scores

    def merges(self, tokens: list[str], scores: list[float] | None = None) -> list[tuple[str, str]]:
        """Return the file's own list of merges, the best first; without one, those that make its
        tokens."""
        listed = self.array("merges", of_texts=True)
        if listed is None:
            return _merges_of(tokens, self.scores() if scores is None else scores)
        merges: list[Any] = [tuple(merge.split(" ")) for merge in listed]
        if wrong := next((merge for merge in merges if len(merge) != 2), None):
            raise DataError(
                f"tokenizer.ggml.merges: two tokens expected, found {wrong}",
                key=self.header.file,
                code="damaged",
            )
        return merges


def can_make(path: Path) -> bool:
    """Whether the tokenizer of a .gguf file is made here; files beside it are for transformers to
    read."""
    header = read_header(path)
    is_alone = of_gguf(path).keys() <= ALONE
    return is_alone and is_known(header) and header.metadata.get("tokenizer.ggml.model") in MAKERS


def notes(path: Path) -> list[Note]:
    """Return a note if transformers reads a .gguf file's header, or makes its tokenizer."""
    if not path.is_file() or can_make(path):
        return []
    header = read_header(path)
    if not is_known(header):
        what = note("its_architecture", name=header.architecture)
    elif (kind := header.metadata.get("tokenizer.ggml.model")) not in MAKERS:
        what = note("its_tokenizer", kind=short(kind))
    else:
        beside = ", ".join(name for name in of_gguf(path) if name not in ALONE)
        what = note("its_tokenizer_with_files", files=beside)
    return [note("read_in_python", file=path.name, what=what)]


def make(path: Path, padding_side: str) -> Any:
    """Return the tokenizer of a .gguf file, in the class that transformers has for its model."""
    from transformers import CONFIG_MAPPING, TOKENIZER_MAPPING, TokenizersBackend

    header = read_header(path)
    metadata = header.metadata
    vocabulary = Vocabulary(header, read_array(header, "tokenizer.ggml.tokens", of_texts=True))
    kind = metadata["tokenizer.ggml.model"]
    maker = SENTENCEPIECE.get(header.architecture, _llama) if kind == "llama" else MAKERS[kind]
    made = maker(vocabulary)
    _add_tokens(made, vocabulary, is_byte_level=kind == "gpt2")
    if (split := SPLIT_OF.get(metadata.get("tokenizer.ggml.pre", ""))) is not None:
        by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        made.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(split), "isolated"), by_bytes]
        )
    elif cuts_single_digits(metadata):
        by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), by_bytes]
        )
    settings: dict[str, Any] = {
        f"{ours}_token": _token(vocabulary, its) for its, ours in SPECIAL_TOKENS.items()
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
    config_class = CONFIG_MAPPING[settings_of(header)["model_type"]]
    tokenizer_class: Any = TOKENIZER_MAPPING.get(config_class, TokenizersBackend)
    place = {"name_or_path": str(path.parent), "is_local": True, "local_files_only": True}
    return tokenizer_class(tokenizer_object=_Handed(made), padding_side=padding_side, **place, **settings)


class _Handed:
    """A tokenizer for transformers, which copies what it is given: the copy is the tokenizer
    itself."""

    def __init__(self, made: Tokenizer) -> None:
        self.made = made

    def __deepcopy__(self, _memo: dict[int, Any]) -> Tokenizer:
        return self.made


def _token(vocabulary: Vocabulary, name: str) -> str | None:
    """Return the text of a special token; None if the file names none."""
    key = f"tokenizer.ggml.{name}_token_id"
    if (number := vocabulary.header.metadata.get(key)) is None:
        return None
    if type(number) is not int or not 0 <= number < len(vocabulary.tokens):
        raise DataError(
            f"{key}={number!r}: it has {len(vocabulary.tokens)} tokens",
            key=vocabulary.header.file,
            code="damaged",
        )
    return vocabulary.tokens[number]


def _byte_level(vocabulary: Vocabulary) -> Tokenizer:
    """Return a tokenizer of byte pairs, as GPT-2's: its tokens are spelled in an alphabet of 256
    for the bytes."""
    spelling = _spelling()
    is_spelled = frozenset(spelling.values()).issuperset
    ids = {
        token if is_spelled(token) else "".join(spelling[byte] for byte in token.encode()): number
        for number, token in enumerate(vocabulary.tokens)
    }
    merges = vocabulary.merges(vocabulary.tokens)
    made = Tokenizer(BPE(ids, merges, continuing_subword_prefix="", end_of_word_suffix="", fuse_unk=False))
    made.pre_tokenizer, made.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    return _with_special(made, ("<|endoftext|>",))


def _spelling() -> dict[int, str]:
    """Return GPT-2's letter for each byte: printable ones stand for themselves, others for those
    from 256 on."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + at) for at, byte in enumerate(others)}


def _llama(vocabulary: Vocabulary) -> Tokenizer:
    """Return a tokenizer as SentencePiece's for Llama: a space is put before a text."""
    merges = vocabulary.merges(vocabulary.tokens)
    made = Tokenizer(BPE(_ids(vocabulary.tokens), merges, fuse_unk=True, byte_fallback=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="first", split=False)
    made.decoder = decoders.Sequence([*_sentencepiece_decoders(), decoders.Strip(content=" ", left=1)])
    return _with_special(made, ("<s>", "</s>", "<unk>"))


def _phi3(vocabulary: Vocabulary) -> Tokenizer:
    """Return Phi-3's, which normalizes a text instead of cutting it: it differs for texts that
    begin with a space."""
    made = _llama(vocabulary)
    made.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    made.pre_tokenizer = None
    return made


def _gemma(vocabulary: Vocabulary) -> Tokenizer:
    """Return Gemma's: several spaces are a token, spelled with spaces in the file; merges are in
    the tokens' order."""
    tokens = [
        SPACE * len(token) if " " in token and not token.strip() else token for token in vocabulary.tokens
    ]
    merges = vocabulary.merges(tokens, [-number for number in range(len(tokens))])
    made = Tokenizer(BPE(_ids(tokens), merges, fuse_unk=True, unk_token="<unk>", byte_fallback=True))
    made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    made.decoder = decoders.Sequence(_sentencepiece_decoders())
    made.normalizer = normalizers.Replace(" ", SPACE)
    return _with_special(made, ("<bos>", "<eos>", "<unk>", "<pad>", "<mask>"))


def _unigram(vocabulary: Vocabulary) -> Tokenizer:
    """Return T5's, which searches for the most probable tokens; its blanks have other names in the
    file."""
    tokens = list(vocabulary.tokens)
    blanks = [number for number, token in enumerate(tokens) if re.match(r"^\[PAD\d+\]$", token)]
    for at, number in enumerate(blanks[:EXTRA]):
        tokens[number] = f"<extra_id_{EXTRA - 1 - at}>"
    made = Tokenizer(
        Unigram([*zip(tokens, vocabulary.scores(), strict=False)], unk_id=2, byte_fallback=False)
    )
    prefixed = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always", split=True)
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), prefixed])
    made.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="always", split=True)
    _with_special(made, ("</s>", "<unk>", "<pad>", *(f"<extra_id_{number}>" for number in range(EXTRA))))
    end = made.token_to_id("</s>")
    made.post_processor = processors.TemplateProcessing(
        single=["$A", "</s>"], pair=["$A", "</s>", "$B", "</s>"], special_tokens=[("</s>", end)]
    )
    return made


MAKERS: dict[str, Callable[[Vocabulary], Tokenizer]] = {"gpt2": _byte_level, "llama": _llama, "t5": _unigram}
# by architecture; others have Llama's
SENTENCEPIECE = {"gemma2": _gemma, "gemma3": _gemma, "phi3": _phi3}


def _ids(tokens: list[str]) -> dict[str, int]:
    return {token: number for number, token in enumerate(tokens)}


def _sentencepiece_decoders() -> list[Any]:
    return [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]


def _with_special(made: Tokenizer, texts: Iterable[str]) -> Tokenizer:
    """Add the special tokens that transformers' class has by default, in its order."""
    made.add_tokens([AddedToken(text, special=True) for text in texts])
    if made.post_processor is None:
        made.post_processor = processors.TemplateProcessing(
            single="$A:0", pair="$A:0 $B:1", special_tokens=[]
        )
    return made


def _add_tokens(made: Tokenizer, vocabulary: Vocabulary, is_byte_level: bool) -> None:
    """Add control tokens and the user's own, which stay whole in a text."""
    types = vocabulary.array("token_type", of_texts=False) or []
    of_type: dict[int, list[str]] = {CONTROL: [], OWN: []}
    for token, kind in zip(vocabulary.tokens, types, strict=False):
        if kind in of_type:
            of_type[kind].append(token)
    alphabet = frozenset(_spelling().values()) if is_byte_level else None
    # of bytes, a control token in other letters is one by mistake: it would be a token beyond the
    # vocabulary
    control = [token for token in of_type[CONTROL] if alphabet is None or alphabet.issuperset(token)]
    made.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
    own = [token for token in of_type[OWN] if made.token_to_id(token) is not None]
    made.add_tokens([AddedToken(token, normalized=False, special=False) for token in own])


def _merges_of(tokens: list[str], scores: list[float]) -> list[tuple[str, str]]:
    """Return the merges that make a vocabulary's tokens out of others, those of the highest score
    first.

    Among equal scores longer left parts come first, then longer right ones, then the tokens' order.
    """
    ids, by_score = _ids(tokens), dict(zip(tokens, scores, strict=False))
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
