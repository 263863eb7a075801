"""One option for each layer, so that all fit into a limit and the sum of losses is least: a
knapsack. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

MOST_STATES = 20_000  # kept after each layer; of more, the best of each of so many equal ranges of size


@dataclass(frozen=True)
class Option:
    """What a layer may become: its size, and its loss alone."""

    nbytes: int
    loss: float


Layers = Sequence[Sequence[Option]]  # the options of each layer, in the same order for all
Choice = tuple[int, ...]  # the number of the option of each layer


def size_of(layers: Layers, choice: Choice) -> int:
    return sum(options[number].nbytes for options, number in zip(layers, choice, strict=True))


def loss_of(layers: Layers, choice: Choice) -> float:
    """Return the sum of the single losses of a choice."""
    return sum(options[number].loss for options, number in zip(layers, choice, strict=True))


def best(layers: Layers, limit: int) -> Choice | None:
    """Return the choice with the least sum of losses within a limit; None if no choice fits.

    All sizes are tried that another choice does not reach with less loss. With more than
    `MOST_STATES` of them, nearly equal sizes share a state: what is returned fits in any case.
    """
    least = [min(option.nbytes for option in options) for options in layers]
    spare = limit - sum(least)  # what is left if all layers are as small as possible
    if spare < 0:
        return None
    sizes, losses = np.zeros(1, dtype=np.int64), np.zeros(1)
    steps: list[tuple[np.ndarray, np.ndarray]] = []  # of each layer: the option and the state before it
    for options, smallest in zip(layers, least, strict=True):
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


def greedy(layers: Layers, limit: int) -> Choice | None:
    """Return what enlarging the layer that gains most for a byte, again and again, finds: often the
    best."""
    choice = [min(range(len(options)), key=lambda index: options[index].nbytes) for options in layers]
    left = limit - size_of(layers, tuple(choice))
    if left < 0:
        return None
    while True:
        gains = [
            ((options[now].loss - option.loss) / (option.nbytes - options[now].nbytes), at, number)
            for at, (options, now) in enumerate(zip(layers, choice, strict=True))
            for number, option in enumerate(options)
            if 0 < option.nbytes - options[now].nbytes <= left and option.loss < options[now].loss
        ]
        if not gains:
            return tuple(choice)
        _, at, number = max(gains)
        left -= layers[at][number].nbytes - layers[at][choice[at]].nbytes
        choice[at] = number


def in_order(layers: Layers, limit: int) -> Choice | None:
    """Return what needs no measurement: the first layers become as large as fits, the others as
    small as possible."""
    least = [min(option.nbytes for option in options) for options in layers]
    left, choice = limit - sum(least), list[int]()
    if left < 0:
        return None
    for options, smallest in zip(layers, least, strict=True):
        fitting = [index for index in range(len(options)) if options[index].nbytes - smallest <= left]
        choice.append(max(fitting, key=lambda index: options[index].nbytes))
        left -= options[choice[-1]].nbytes - smallest
    return tuple(choice)


def neighbours(layers: Layers, choice: Choice, limit: int, count: int) -> list[Choice]:
    """Return choices within the limit in which two layers of one size have changed places, likely
    ones first."""
    found: dict[Choice, float] = {}
    for first, second in _exchanges(layers, choice):
        changed = list(choice)
        changed[first], changed[second] = choice[second], choice[first]
        if size_of(layers, tuple(changed)) <= limit:
            found[tuple(changed)] = loss_of(layers, tuple(changed))
    return sorted(found, key=found.__getitem__)[:count]


def _exchanges(layers: Layers, choice: Choice) -> Iterator[tuple[int, int]]:
    for first, second in permutations(range(len(layers)), 2):
        sizes = [[option.nbytes for option in layers[layer]] for layer in (first, second)]
        if first < second and choice[first] != choice[second] and sizes[0] == sizes[1]:
            yield first, second
