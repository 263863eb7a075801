"""Pairs what two runs have scored of the same texts in other windows, or after other contexts: the
same tokens.

A window decides how much stands before a token, not which tokens are scored. So the texts of two
runs with other windows are the same, and are compared over the pieces that both have cut: a whole
text, or what lies between two places at which both begin a window, where the windows of a single
text are the samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from runner_compare.model.data import Texts, TextScore
from runner_compare.statistics import units
from runner_compare.statistics.likelihoods import longest_context

NO_PROMPT = (None, None)  # the question and gold of a window: its tokens identify it


def after_longest_context(texts: Texts) -> Texts:
    """Return the texts that count: of those that were scored after several contexts, the longest
    one's."""
    longest = longest_context(score.likelihood for score in texts.values())
    return {index: score for index, score in texts.items() if score.likelihood.context == longest}


def in_same_pieces(texts: Texts, base_texts: Texts, is_one_text: bool) -> tuple[Texts, Texts]:
    """Return both sides cut where both are, if they have scored the same tokens in other windows;
    else as they are."""
    sides = texts, base_texts
    if any(score.text != NO_PROMPT for side in sides for score in side.values()) or _are_alike(
        texts, base_texts
    ):
        return sides
    documents, base_documents = (_documents(side, is_one_text) for side in sides)
    if documents.keys() != base_documents.keys() or any(
        _tokens(documents[key]) != _tokens(base_documents[key]) for key in documents
    ):
        return sides
    pairs: list[tuple[TextScore, TextScore]] = []
    for key, scores in documents.items():
        ends = sorted(_ends(scores) & _ends(base_documents[key]))
        pieces = zip(_pieces(scores, ends), _pieces(base_documents[key], ends), strict=True)
        first = len(pairs)
        pairs += [
            (
                _as_unit(piece, first + at if is_one_text else key),
                _as_unit(base_piece, first + at if is_one_text else key),
            )
            for at, (piece, base_piece) in enumerate(pieces)
        ]
    return {at: piece for at, (piece, _) in enumerate(pairs)}, {
        at: base_piece for at, (_, base_piece) in enumerate(pairs)
    }


def _are_alike(texts: Texts, base_texts: Texts) -> bool:
    """Whether both sides have the same windows after the same tokens."""
    return texts.keys() == base_texts.keys() and all(
        (score.tokens, score.prompt) == (base_texts[index].tokens, base_texts[index].prompt)
        for index, score in texts.items()
    )


def _documents(texts: Texts, is_one_text: bool) -> dict[int, list[TextScore]]:
    """Return the windows of each text in their order."""
    documents: dict[int, list[TextScore]] = {}
    for index in sorted(texts):
        score = texts[index]
        documents.setdefault(0 if is_one_text else score.likelihood.unit, []).append(score)
    return documents


def _tokens(scores: Sequence[TextScore]) -> list[int]:
    return [token for score in scores for token in score.tokens]


def _ends(scores: Sequence[TextScore]) -> set[int]:
    """Return after how many tokens of a text its windows end."""
    return {*accumulate(len(score.tokens) for score in scores)}


def _pieces(scores: Sequence[TextScore], ends: Sequence[int]) -> list[TextScore]:
    """Return the windows of a text joined, so that pieces end after so many tokens."""
    pieces: list[TextScore] = []
    joined: list[TextScore] = []
    position = 0
    wanted = iter(ends)
    end = next(wanted)
    for score in scores:
        joined.append(score)
        position += len(score.tokens)
        if position == end:
            pieces.append(_joined(joined))
            joined, end = [], next(wanted, -1)
    return pieces


def _joined(scores: Sequence[TextScore]) -> TextScore:
    """Return several windows as one; what stands before them is no prompt that both sides must
    share."""
    (likelihood,) = units([replace(score.likelihood, unit=0, context=None) for score in scores])
    return scores[0]._replace(prompt=None, tokens=tuple(_tokens(scores)), likelihood=likelihood)


def _as_unit(score: TextScore, unit: int) -> TextScore:
    return score._replace(likelihood=replace(score.likelihood, unit=unit))
