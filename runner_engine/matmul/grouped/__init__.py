"""The experts of a layer in one call of C, in place of a family's own function."""

from runner_engine.matmul.grouped.experts import GroupedExperts
from runner_engine.matmul.grouped.layer import ExpertLayer

__all__ = ["ExpertLayer", "GroupedExperts"]
