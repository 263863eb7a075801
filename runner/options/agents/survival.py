"""How often each edge of a team's graph survives pruning over seeds, and whether that is more than
chance.

Pruning that removes 5 of 12 edges leaves each one in 58 % of the seeds, whatever it has learned. So
an edge says something only where its count would be rare if each seed kept as many edges of the
same number by chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from statistics import fmean

from runner_compare.statistics import ALPHA, holm

Edge = tuple[int, int]  # who speaks, who listens


@dataclass(frozen=True)
class EdgeOfSeed:
    """An edge that one seed's graph allows: whether it survived, and the probability that it was
    taken with."""

    survived: bool
    probability: float


EdgesOfSeed = Mapping[Edge, EdgeOfSeed]  # of one kind, those that the graph allows


@dataclass
class EdgeSurvival:
    """In how many seeds an edge survived."""

    kind: str
    source: int
    target: int
    survived: int
    seeds: int  # whose graphs allow it
    probability: float  # the mean over these seeds; 0 where it was pruned
    by_chance: float  # the share of seeds in which it would survive if pruning chose by chance
    p: float  # of so many or so few by chance
    p_holm: float = 1.0

    @property
    def share(self) -> float:
        return self.survived / self.seeds

    @property
    def finding(self) -> str:
        """Whether it survives more or less often than by chance; empty if neither is shown."""
        if self.p_holm >= ALPHA:
            return ""
        return "more often than chance" if self.share > self.by_chance else "less often than chance"


@dataclass
class SurvivalTable:
    """The edges of the graphs that one team has learned with several seeds."""

    job_id: str  # of the row
    roles: tuple[str, ...]
    seeds: int
    edges: list[EdgeSurvival]

    @property
    def can_show(self) -> bool:
        """Whether an edge that all seeds kept, or none, would be more than chance."""
        ends = [count_p(end, [edge.by_chance] * edge.seeds) for edge in self.edges for end in (0, edge.seeds)]
        return bool(ends) and min(ends) * len(self.edges) < ALPHA


def survival_of(kinds: Mapping[str, Sequence[EdgesOfSeed]]) -> list[EdgeSurvival]:
    """Return how often each edge survived, from the edges of each kind in each seed."""
    found = []
    for kind, seeds in kinds.items():
        kept = [fmean(edge.survived for edge in edges.values()) if edges else 0.0 for edges in seeds]
        for source, target in sorted({edge for edges in seeds for edge in edges}):
            allowing = [number for number, edges in enumerate(seeds) if (source, target) in edges]
            of_edge = [seeds[number][source, target] for number in allowing]
            shares = [kept[number] for number in allowing]
            survived = sum(edge.survived for edge in of_edge)
            found.append(
                EdgeSurvival(
                    kind,
                    source,
                    target,
                    survived,
                    len(of_edge),
                    fmean(edge.probability * edge.survived for edge in of_edge),
                    fmean(shares),
                    count_p(survived, shares),
                )
            )
    for edge, p_holm in zip(found, holm([edge.p for edge in found]), strict=True):
        edge.p_holm = p_holm
    return found


def count_p(count: int, shares: Sequence[float]) -> float:
    """Return the two-sided exact p of so many successes, each with its own probability."""
    import numpy as np

    chances = reduce(np.convolve, ([1 - share, share] for share in shares), np.ones(1))
    return min(1.0, 2 * float(min(chances[: count + 1].sum(), chances[count:].sum())))
