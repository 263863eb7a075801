"""The tokenizer made of a .gguf file's header is the one that transformers makes of the file, on
texts in many scripts."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import pytest
from gguf.gguf_writer import GGUFValue
from many_scripts import byte_pairs, pieces, texts, unigrams
from raising import raises
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer

from runner_base.errors import ConfigError
from runner_base.notes import note
from runner_engine.checkpoints.gguf_file import read_gguf_header
from runner_engine.checkpoints.gguf_names import SINGLE_DIGITS, splits_single_digits
from runner_engine.models import gguf_tokenizer
from runner_engine.models.load_tokenizer import load_tokenizer
from tools import real_model

TEXTS = 1000
NORMAL, UNKNOWN, CONTROL, OWN, BYTE = 1, 2, 3, 4, 6
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.content }}{% endfor %}"
Write = Callable[[gguf.GGUFWriter], None]


def write(path: Path, architecture: str, add_tokenizer: Write) -> Path:
    """Write a file with a header alone: the settings that a config needs, and a tokenizer."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(1)
    writer.add_embedding_length(32)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    add_tokenizer(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@cache
def _byte_pairs() -> tuple[list[str], list[str]]:
    return byte_pairs(2000)


@cache
def _pieces() -> list[str]:
    return pieces(3000)


@cache
def _unigrams() -> list[tuple[str, float]]:
    return unigrams(1500)


def by_bytes(
    pre: str | None, special: tuple[str, ...] = ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), **flags: bool
) -> Write:
    """Write byte pairs with special tokens, one of the user's own, and one that is marked as
    control by mistake."""

    def add(writer: gguf.GGUFWriter) -> None:
        tokens, merges = _byte_pairs()
        writer.add_tokenizer_model("gpt2")
        if pre is not None:
            writer.add_tokenizer_pre(pre)
        writer.add_token_list([*special, *tokens, "<think>", "wrong\u20ac", "  "])
        writer.add_token_types([CONTROL] * len(special) + [NORMAL] * len(tokens) + [OWN, CONTROL, OWN])
        writer.add_token_merges(merges)
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(len(special) - 1)
        writer.add_chat_template(TEMPLATE)
        for key, flag in flags.items():
            writer.add_bool(f"tokenizer.ggml.{key}", flag)

    return add


def by_pieces(
    has_merges: bool = False, equal_scores: bool = False, spaces: str = "▁▁", **flags: bool
) -> Write:
    """Write SentencePiece's tokens; most files have scores and no merges."""

    def add(writer: gguf.GGUFWriter) -> None:
        first = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
        tokens = [*first, *_pieces(), spaces, "▁▁▁", "<think>", "<|im_start|>"]
        others = len(tokens) - len(first) - 2
        writer.add_tokenizer_model("llama")
        writer.add_token_list(tokens)
        scores = [float(-(number // 40 if equal_scores else number)) for number in range(len(tokens))]
        writer.add_token_scores(scores)
        writer.add_token_types([UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * others, OWN, CONTROL])
        if has_merges:
            known = set(tokens)
            pairs = [(token[:at], token[at:]) for token in _pieces() for at in range(1, len(token))]
            writer.add_token_merges([" ".join(pair) for pair in pairs if known.issuperset(pair)])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)
        for key, flag in flags.items():
            writer.add_bool(f"tokenizer.ggml.{key}", flag)

    return add


def by_unigrams(writer: gguf.GGUFWriter) -> None:
    """Write T5's tokens, with its blanks as llama.cpp calls them."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    found = [*special, *(one for one in _unigrams() if one not in special and one[0] != "<unk>")]
    blanks = [(f"[PAD{len(found) + number}]", 0.0) for number in range(104)]
    writer.add_tokenizer_model("t5")
    writer.add_token_list([token for token, _ in found + blanks])
    writer.add_token_scores([score for _, score in found + blanks])
    writer.add_token_types([CONTROL, CONTROL, UNKNOWN, *[NORMAL] * (len(found) - 3), *[5] * len(blanks)])
    writer.add_pad_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(2)


def check_equal(path: Path) -> None:
    """Compare the two tokenizers: what they are, what they cut, what they put together."""
    assert gguf_tokenizer.can_build_tokenizer(path)
    found = load_tokenizer(f"model.name={path}", path)
    expected: Any = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, padding_side="left")
    assert type(found) is type(expected)
    if splits_single_digits(
        read_gguf_header(path).metadata
    ):  # as llama.cpp and the models' own tokenizers, unlike transformers
        own = (
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        )
        expected.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*own])
    many = texts(TEXTS)
    for special in (True, False):
        ids = found(many, add_special_tokens=special)["input_ids"]
        assert ids == expected(many, add_special_tokens=special)["input_ids"]
    assert len({number for one in ids for number in one}) > 200, "the texts hardly use the vocabulary"
    assert found.batch_decode(ids) == expected.batch_decode(ids)
    assert found.batch_decode(ids, skip_special_tokens=True) == expected.batch_decode(
        ids, skip_special_tokens=True
    )
    assert found.backend_tokenizer.to_str() == expected.backend_tokenizer.to_str()
    assert found.special_tokens_map == {**expected.special_tokens_map, "pad_token": found.pad_token}
    for name in (
        "chat_template",
        "padding_side",
        "model_input_names",
        "add_bos_token",
        "add_eos_token",
        "all_special_ids",
    ):
        if name != "all_special_ids" or expected.pad_token is not None:
            assert getattr(found, name) == getattr(expected, name), name


PRES = (None, *sorted(gguf_tokenizer.SPLIT_OF), *sorted(SINGLE_DIGITS), "default")
KINDS: dict[str, Write] = {
    **{f"bytes-{pre}": by_bytes(pre) for pre in PRES},
    "bytes-with-bos": by_bytes("llama-bpe", add_bos_token=True),
    "bytes-with-both": by_bytes("qwen2", add_bos_token=True, add_eos_token=True),
    "bytes-without-endoftext": by_bytes("llama-bpe", special=("<|begin|>", "<|end|>")),
    "pieces": by_pieces(),
    "pieces-with-merges": by_pieces(has_merges=True),
    "pieces-with-equal-scores": by_pieces(equal_scores=True),
    "pieces-with-real-spaces": by_pieces(spaces="  "),
    "pieces-without-bos": by_pieces(add_bos_token=False, add_eos_token=True),
    "unigrams": by_unigrams,
}


@pytest.mark.thorough
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_the_ids_of_transformers(kind: str, tmp_path: Path) -> None:
    check_equal(write(tmp_path / "model.gguf", "llama", KINDS[kind]))


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    "kind", ["bytes-qwen2", "pieces", "pieces-with-real-spaces", "pieces-with-merges", "unigrams"]
)
@pytest.mark.parametrize(
    "architecture", ["qwen2", "qwen3", "phi3", "starcoder2", "stablelm", "gemma2", "gemma3"]
)
def test_each_architecture_has_the_ids_of_transformers(architecture: str, kind: str, tmp_path: Path) -> None:
    check_equal(write(tmp_path / "model.gguf", architecture, KINDS[kind]))


def wrong(key: str, value: Any) -> Write:
    """Write SentencePiece's tokens, and one value that is wrong."""

    def add(writer: gguf.GGUFWriter) -> None:
        by_pieces()(writer)
        writer.kv_data[0][f"tokenizer.ggml.{key}"] = value

    return add


TEXT, FLOAT, COUNT, LIST = (
    gguf.GGUFValueType.STRING,
    gguf.GGUFValueType.FLOAT32,
    gguf.GGUFValueType.UINT32,
    gguf.GGUFValueType.ARRAY,
)
WRONG: dict[str, tuple[str, GGUFValue, str]] = {
    "an end beyond": ("eos_token_id", GGUFValue(10**6, COUNT), "tokenizer.ggml.eos_token_id=1000000, but the tokenizer has 3"),
    "an end as text": ("eos_token_id", GGUFValue("</s>", TEXT), "tokenizer.ggml.eos_token_id='</s>'"),
    "no numbers": ("scores", GGUFValue([math.nan] * 9, LIST, FLOAT), "a score in tokenizer.ggml.scores is NaN"),
    "scores as texts": ("scores", GGUFValue(["1"] * 9, LIST, TEXT), "scores is not a list of numbers"),
    "tokens as numbers": ("tokens", GGUFValue([1] * 9, LIST, COUNT), "tokens is not a list of strings"),
    "a merge of three": ("merges", GGUFValue(["a b c"], LIST, TEXT), "merges: each merge must have two tokens, but found .'a', 'b', 'c'"),
    "an unknown merge": ("merges", GGUFValue(["a nothing"], LIST, TEXT), "out of vocabulary"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_array_is_refused_in_one_message(case: str, tmp_path: Path) -> None:
    key, value, message = WRONG[case]
    path = write(tmp_path / "model.gguf", "llama", wrong(key, value))
    with pytest.raises(ConfigError, match=f"the tokenizer in .* cannot be loaded: .*{message}"):
        load_tokenizer(f"model.name={path}", path)


def test_what_transformers_reads_is_noted(tmp_path: Path) -> None:
    path = write(tmp_path / "model.gguf", "llama", KINDS["pieces"])
    (tmp_path / "generation_config.json").write_text("{}")
    assert gguf_tokenizer.can_build_tokenizer(path)
    assert gguf_tokenizer.build_slow_tokenizer_notes(path) == []
    assert gguf_tokenizer.build_slow_tokenizer_notes(tmp_path) == []
    load_tokenizer("model.name=x", path).backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert not gguf_tokenizer.can_build_tokenizer(path)
    beside = note("its_tokenizer_with_files", files="tokenizer.json")
    assert gguf_tokenizer.build_slow_tokenizer_notes(path) == [
        note("read_in_python", file="model.gguf", what=beside)
    ]
    assert load_tokenizer("model.name=x", path)("a")["input_ids"]
    (tmp_path / "tokenizer.json").unlink()
    falcon = write(tmp_path / "falcon.gguf", "falcon", KINDS["bytes-None"])
    architecture = note("its_architecture", name="falcon")
    assert gguf_tokenizer.build_slow_tokenizer_notes(falcon) == [
        note("read_in_python", file="falcon.gguf", what=architecture)
    ]
    assert load_tokenizer("model.name=x", falcon)("a")["input_ids"]
    by_words = write(tmp_path / "words.gguf", "llama", lambda writer: writer.add_tokenizer_model("bert"))
    bert = note("its_tokenizer", kind="'bert'")
    assert gguf_tokenizer.build_slow_tokenizer_notes(by_words) == [
        note("read_in_python", file="words.gguf", what=bert)
    ]
    with raises(ConfigError, "unreadable", "model.name=x"):
        load_tokenizer("model.name=x", by_words)


@pytest.mark.thorough
@pytest.mark.skipif(
    not real_model.gguf_file().is_file(), reason=f"the real model is not here: {real_model.HOW}"
)
def test_a_real_file_has_the_ids_of_transformers() -> None:
    check_equal(real_model.gguf_file())
