"""Aligns the log-likelihoods of two runs that split the same documents into different windows.

A window decides how much context precedes a token, not which tokens are scored. So the
texts are compared over pieces that both runs have cut: a whole text, or the span between
two positions at which both begin a window, where the windows of a single text are the
samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from runner_compare.model.data import Texts, TextScore
from runner_compare.statistics import sum_likelihoods_by_document
from runner_compare.statistics.likelihoods import longest_context

NO_PROMPT = (None, None)  # the question and gold of a window: its tokens identify it


def select_longest_context(texts: Texts) -> Texts:
    longest = longest_context(score.likelihood for score in texts.values())
    return {index: score for index, score in texts.items() if score.likelihood.context == longest}


def align_document_windows(texts: Texts, base_texts: Texts, is_single_text: bool) -> tuple[Texts, Texts]:
    """Merge windows of each document until the windows of both runs are the same.

    If the runs scored different tokens, both are returned unchanged.
    """
    sides = texts, base_texts
    if any(score.text != NO_PROMPT for side in sides for score in side.values()) or _have_same_windows(
        texts, base_texts
    ):
        return sides
    documents, base_documents = (_group_by_document(side, is_single_text) for side in sides)
    if documents.keys() != base_documents.keys() or any(
        _concatenate_tokens(documents[key]) != _concatenate_tokens(base_documents[key]) for key in documents
    ):
        return sides
    pairs: list[tuple[TextScore, TextScore]] = []
    for key, scores in documents.items():
        ends = sorted(_window_ends(scores) & _window_ends(base_documents[key]))
        pieces = zip(
            _merge_window_scores(scores, ends), _merge_window_scores(base_documents[key], ends), strict=True
        )
        first = len(pairs)
        pairs += [
            (
                _with_unit(piece, first + at if is_single_text else key),
                _with_unit(base_piece, first + at if is_single_text else key),
            )
            for at, (piece, base_piece) in enumerate(pieces)
        ]
    return {at: piece for at, (piece, _) in enumerate(pairs)}, {
        at: base_piece for at, (_, base_piece) in enumerate(pairs)
    }


def _have_same_windows(texts: Texts, base_texts: Texts) -> bool:
    return texts.keys() == base_texts.keys() and all(
        (score.tokens, score.prompt) == (base_texts[index].tokens, base_texts[index].prompt)
        for index, score in texts.items()
    )


def _group_by_document(texts: Texts, is_single_text: bool) -> dict[int, list[TextScore]]:
    """Group windows by document, in order."""
    documents: dict[int, list[TextScore]] = {}
    for index in sorted(texts):
        score = texts[index]
        documents.setdefault(0 if is_single_text else score.likelihood.unit, []).append(score)
    return documents


def _concatenate_tokens(scores: Sequence[TextScore]) -> list[int]:
    return [token for score in scores for token in score.tokens]


def _window_ends(scores: Sequence[TextScore]) -> set[int]:
    """Return the token positions at which the windows of a document end."""
    return {*accumulate(len(score.tokens) for score in scores)}


def _merge_window_scores(scores: Sequence[TextScore], ends: Sequence[int]) -> list[TextScore]:
    """Merge consecutive windows of a document, so that the merged windows end at the given token
    positions.
    """
    pieces: list[TextScore] = []
    joined: list[TextScore] = []
    position = 0
    wanted = iter(ends)
    end = next(wanted)
    for score in scores:
        joined.append(score)
        position += len(score.tokens)
        if position == end:
            pieces.append(_merge_windows(joined))
            joined, end = [], next(wanted, -1)
    return pieces


def _merge_windows(scores: Sequence[TextScore]) -> TextScore:
    (likelihood,) = sum_likelihoods_by_document(
        [replace(score.likelihood, unit=0, context=None) for score in scores]
    )
    return scores[0]._replace(prompt=None, tokens=tuple(_concatenate_tokens(scores)), likelihood=likelihood)


def _with_unit(score: TextScore, unit: int) -> TextScore:
    return score._replace(likelihood=replace(score.likelihood, unit=unit))
