"""Computes all experts of a layer in one C call, in place of the model's Python code."""

from runner_engine.matmul.grouped.expert_layer import ExpertLayer
from runner_engine.matmul.grouped.grouped_experts import GroupedExperts

__all__ = ["ExpertLayer", "GroupedExperts"]
