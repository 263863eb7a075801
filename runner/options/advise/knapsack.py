"""Chooses one format per layer so that the total loss is minimal within a size limit (knapsack
problem).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

MOST_STATES = 20_000  # kept after each layer; of more, the best of each of so many equal ranges of size


@dataclass(frozen=True)
class LayerOption:
    """A quantization format for one layer: its size in bytes, and the loss if only this layer is
    quantized.
    """

    nbytes: int
    loss: float


OptionsPerLayer = Sequence[Sequence[LayerOption]]  # the options of each layer, in the same order for all
FormatChoice = tuple[int, ...]  # the number of the option of each layer


def total_nbytes(layers: OptionsPerLayer, choice: FormatChoice) -> int:
    return sum(options[number].nbytes for options, number in zip(layers, choice, strict=True))


def total_loss(layers: OptionsPerLayer, choice: FormatChoice) -> float:
    """Return the total loss: the sum over all layers of the loss in the chosen format."""
    return sum(options[number].loss for options, number in zip(layers, choice, strict=True))


def solve_knapsack(options_by_layer: OptionsPerLayer, size_limit: int) -> FormatChoice | None:
    """Return one format per layer with the smallest total loss within a size limit, or None if nothing fits.

    Dynamic programming over all sizes that no other choice reaches with less loss. Beyond
    `MOST_STATES` states, nearly equal sizes share a state; the returned choice fits in any
    case.
    """
    least = [min(option.nbytes for option in options) for options in options_by_layer]
    spare = size_limit - sum(least)  # what is left if all layers are as small as possible
    if spare < 0:
        return None
    sizes, losses = np.zeros(1, dtype=np.int64), np.zeros(1)
    steps: list[tuple[np.ndarray, np.ndarray]] = []  # of each layer: the option and the state before it
    for options, smallest in zip(options_by_layer, least, strict=True):
        count = len(sizes)
        every = np.concatenate([sizes + option.nbytes - smallest for option in options])
        total = np.concatenate([losses + option.loss for option in options])
        order = np.lexsort((total, every))
        order = order[every[order] <= spare]
        running = np.minimum.accumulate(total[order])
        # each is better than all smaller ones
        order = order[np.concatenate([[True], running[1:] < running[:-1]])]
        if len(order) > MOST_STATES:
            ranges = every[order] * MOST_STATES // (spare + 1)
            # the last of a range loses least
            order = order[np.concatenate([ranges[1:] != ranges[:-1], [True]])]
        sizes, losses = every[order], total[order]
        steps.append((order // count, order % count))
    state, chosen = len(sizes) - 1, list[int]()
    for option_numbers, before in reversed(steps):
        chosen.append(int(option_numbers[state]))
        state = int(before[state])
    return tuple(reversed(chosen))


def choose_formats_greedily(options_by_layer: OptionsPerLayer, size_limit: int) -> FormatChoice | None:
    """Start with the smallest formats, and repeatedly upgrade the layer with the best gain per byte."""
    choice = [
        min(range(len(options)), key=lambda index: options[index].nbytes) for options in options_by_layer
    ]
    left = size_limit - total_nbytes(options_by_layer, tuple(choice))
    if left < 0:
        return None
    while True:
        gains = [
            ((options[now].loss - option.loss) / (option.nbytes - options[now].nbytes), at, number)
            for at, (options, now) in enumerate(zip(options_by_layer, choice, strict=True))
            for number, option in enumerate(options)
            if 0 < option.nbytes - options[now].nbytes <= left and option.loss < options[now].loss
        ]
        if not gains:
            return tuple(choice)
        _, at, number = max(gains)
        left -= options_by_layer[at][number].nbytes - options_by_layer[at][choice[at]].nbytes
        choice[at] = number


def assign_largest_fitting_formats_greedily(layers: OptionsPerLayer, max_nbytes: int) -> FormatChoice | None:
    least = [min(option.nbytes for option in options) for options in layers]
    left, choice = max_nbytes - sum(least), list[int]()
    if left < 0:
        return None
    for options, smallest in zip(layers, least, strict=True):
        fitting = [index for index in range(len(options)) if options[index].nbytes - smallest <= left]
        choice.append(max(fitting, key=lambda index: options[index].nbytes))
        left -= options[choice[-1]].nbytes - smallest
    return tuple(choice)


def find_best_layer_format_swaps(
    layers: OptionsPerLayer, choice: FormatChoice, max_nbytes: int, max_choices: int
) -> list[FormatChoice]:
    """Return variants of a format choice in which two equally large layers swap their formats, lowest loss
    first.
    """
    found: dict[FormatChoice, float] = {}
    for first, second in _iterate_swappable_pairs(layers, choice):
        changed = list(choice)
        changed[first], changed[second] = choice[second], choice[first]
        if total_nbytes(layers, tuple(changed)) <= max_nbytes:
            found[tuple(changed)] = total_loss(layers, tuple(changed))
    return sorted(found, key=found.__getitem__)[:max_choices]


def _iterate_swappable_pairs(layers: OptionsPerLayer, choice: FormatChoice) -> Iterator[tuple[int, int]]:
    for first, second in permutations(range(len(layers)), 2):
        sizes = [[option.nbytes for option in layers[layer]] for layer in (first, second)]
        if first < second and choice[first] != choice[second] and sizes[0] == sizes[1]:
            yield first, second
