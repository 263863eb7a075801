"""Texts in many scripts, always the same ones, and vocabularies that are learned from some of
them."""

from __future__ import annotations

import json
import random
import string

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

RANGES = {  # code points
    "latin": "az", "accents": "àÿ", "greek": "αω", "cyrillic": "ая", "hebrew": "את", "arabic": "ءي",
    "devanagari": "अह", "thai": "กฮ", "kana": "ぁん", "han": "一万", "hangul": "가깋", "emoji": "😀😏",
    "marks": "\u0300\u0310", "mathematics": "𝐀𝐙",
}  # fmt: skip
SPACES = (" ", " ", " ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", "\u00a0", "\u3000", "")
MARKS = (*string.punctuation, "…", "«", "»", "。", "¿", "—", "'s", "'LL", "▁", "\x00", "\ufffd", "\u200d")
MORE = (
    "<s>",
    "</s>",
    "<|im_start|>",
    "<|endoftext|>",
    "<think>",
    "<pad>",
    "<extra_id_3>",
    "<0x0A>",
    "[PAD7]",
    "<mask>",
)


def texts(count: int, seed: int = 0) -> list[str]:
    """Return texts of words, numbers, marks, spaces and special tokens of many scripts."""
    chance, made = random.Random(seed), []
    for at in range(count):
        bounds = chance.choice(list(RANGES.values()))
        letters = [chr(code) for code in range(ord(bounds[0]), ord(bounds[1]) + 1)]
        parts = []
        for _ in range(chance.randrange(1, 16)):
            word = "".join(chance.choices(letters, k=chance.randrange(1, 6)))
            number, mark = str(chance.randrange(10**6)), chance.choice(MARKS)
            parts.append(chance.choice((word, word, word, word.upper(), word.title(), number, mark)))
            parts.append(
                chance.choice(MORE) if at % 5 == 0 and chance.random() < 0.3 else chance.choice(SPACES)
            )
        made.append("".join(parts))
    return made


def byte_pairs(size: int) -> tuple[list[str], list[str]]:
    """Return the tokens and merges of a vocabulary of byte pairs."""
    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    learned.train_from_iterator(texts(2000, seed=1), trainer)
    ids = learned.get_vocab()
    merges = json.loads(learned.to_str())["model"]["merges"]
    return sorted(ids, key=ids.__getitem__), [" ".join(pair) for pair in merges]


def pieces(size: int) -> list[str]:
    """Return SentencePiece's kind of tokens, learned as pairs: the best ones first, with ▁ for a
    space."""
    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.Metaspace()
    learned.train_from_iterator(
        texts(2000, seed=1), trainers.BpeTrainer(vocab_size=size, show_progress=False)
    )
    ids = learned.get_vocab()
    return sorted(ids, key=ids.__getitem__)


def unigrams(size: int) -> list[tuple[str, float]]:
    """Return tokens with the logarithms of their probabilities, as T5 has."""
    learned = Tokenizer(models.Unigram())
    learned.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=size, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False
    )
    learned.train_from_iterator(texts(2000, seed=1), trainer)
    return [(token, score) for token, score in json.loads(learned.to_str())["model"]["vocab"]]
