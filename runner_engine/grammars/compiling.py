"""Grammars for a tokenizer. The library, llguidance, is imported with the first one.

A grammar is a text in the library's Lark syntax, with one more directive:

    %mark NAME "text"

defines the rules NAME, this text, and to_NAME, any text up to and with it. Where the tokenizer has
the text as a special token, NAME is that token and not its letters.
"""

from __future__ import annotations

import copy
import json
import re
import threading
from collections import OrderedDict
from typing import Any

from runner_base import ConfigError
from runner_engine.grammars.held import Held

MARK = re.compile(r'^%mark ([a-z_]+) ("(?:[^"\\]|\\.)*")$', re.MULTILINE)
ANYTHING = r"/(.|\n)*/"
MOST_KEPT = 64  # grammars, as clients ask with the same ones again and again
MOST_REASON = 400  # characters of the library's reason
INSTALL = "pip install 'runner-llm[grammars]'"


class Grammars:
    """Grammars for one tokenizer; any thread may begin rows."""

    def __init__(self, tokenizer: Any, vocab_size: int, stops: frozenset[int]) -> None:
        """vocab_size: of the model's logits; stops: the tokens that end an answer."""
        self._tokenizer, self._vocab_size, self._stops = tokenizer, vocab_size, stops
        self._lock = threading.Lock()
        self._of_library: Any = None
        self._kept: OrderedDict[str, Any] = OrderedDict()  # by their texts, the latest one last

    def begin(self, text: str) -> Held:
        """Return the beginning of an answer in a grammar; ConfigError if there is no such."""
        with self._lock:
            matcher = self._kept.get(text)
            if matcher is None:
                matcher = self._compiled(text)
            self._kept[text] = matcher
            self._kept.move_to_end(text)
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
            return Held(matcher.deep_copy(), self._words)

    def _compiled(self, text: str) -> Any:
        library = _library()
        if self._of_library is None:
            self._of_library = self._tokens(library)
        whole = MARK.sub(self._mark, f"%llguidance {{}}\n{text}")
        matcher = library.LLMatcher(self._of_library, whole, log_level=0)
        # a warning names what is left out: then the answer would be held to another grammar
        reasons = [matcher.get_error() or "", *matcher.get_grammar_warnings()]
        if reason := next(filter(None, reasons), None):
            raise ConfigError(f"no answer can be held to this: {_short(reason)}")
        return matcher

    def _tokens(self, library: Any) -> Any:
        """Return the library's own tokenizer."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        name = getattr(self._tokenizer, "name_or_path", "this model")
        if backend is None:
            raise ConfigError(
                f"the tokenizer of {name} is no fast one, and only these can hold answers to a grammar"
            )
        backend = copy.copy(backend)
        backend.no_padding()
        backend.no_truncation()
        size = max(self._vocab_size, len(self._tokenizer))
        try:
            return library.LLTokenizer(
                backend.to_str(), n_vocab=size, eos_token=sorted(self._stops) or None
            )
        except Exception as error:
            raise ConfigError(
                f"the tokenizer of {name} cannot hold answers to a grammar: {_short(str(error))}"
            ) from error

    @property
    def _words(self) -> int:
        """How many words of 32 bits a mask has."""
        return (int(self._of_library.vocab_size) + 31) // 32

    def _mark(self, match: re.Match[str]) -> str:
        """Return the rules of a mark."""
        name, quoted = match[1], match[2]
        ids = self._of_library.tokenize_str(json.loads(quoted), parse_special=True)
        if len(ids) == 1 and self._of_library.is_special_token(ids[0]):
            return f"{name}: <[{ids[0]}]>\nto_{name}: {ANYTHING} <[{ids[0]}]>"
        return f"{name}: {quoted}\nto_{name}[lazy]: {ANYTHING} {quoted}"


def _library() -> Any:
    try:
        import llguidance
    except ImportError as error:
        raise ConfigError(
            f"answers are held to a grammar by the package llguidance: {INSTALL}"
        ) from error
    return llguidance


def _short(reason: str) -> str:
    """Return a reason of the library in a line, without the grammar that it quotes."""
    plain = " ".join(re.split(r"\n\s*\d+ \|", reason)[0].split())
    plain = re.sub(r"^at \d+\(\d+\): ", "", plain)
    return plain if len(plain) <= MOST_REASON else f"{plain[:MOST_REASON]}…"
