"""Describes the layers of a decoder for the C kernels.

The description follows from module names and from test runs of the modules.
"""

from runner_engine.decode.layouts.attention_layout import AttentionLayout, HeadShapeLayout, LatentLayout
from runner_engine.decode.layouts.mixtures import MixtureLayout
from runner_engine.decode.layouts.mlps import MlpLayout
from runner_engine.decode.layouts.model import LayerLayout, ModelLayout, describe_model
from runner_engine.decode.layouts.norms import NormLayout
from runner_engine.decode.layouts.parts import NotFusable
from runner_engine.decode.layouts.rotations import Rotation

__all__ = [  # noqa: RUF022 - by what they are for
    "describe_model",  # the layout of a model, or NotFusable
    "ModelLayout",  # its embedding, layers and head
    "LayerLayout",  # attention, an MLP, and the norms around them
    "MlpLayout",  # its matrices and its function
    "MixtureLayout",  # a router, experts, and an MLP beside them
    "AttentionLayout",  # projections, norms and rotation of heads, what is done to scores
    "LatentLayout",  # what queries, keys and values come out of, where attention has latents
    "HeadShapeLayout",  # where layers differ in the shape of their heads
    "Rotation",  # which numbers of a head are rotated, and by which table
    "NormLayout",  # what a norm computes, with its weight
    "NotFusable",  # the model has parts that C does not know
]
