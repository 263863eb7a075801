"""Layers that carry a state from token to token, and the states of rows.

These names are what others need of this folder. A kind of layer is a module of `mixers/`, which
`MIXERS` names.
"""

from runner_engine.recurrent.call_parts import CallParts
from runner_engine.recurrent.contract import (
    MIXERS,
    Mixer,
    Segments,
    StateShape,
    UnsupportedMixer,
    mixer_of,
    mixers_of,
)
from runner_engine.recurrent.convolution import convolve
from runner_engine.recurrent.states import RowStates, SavedStates, Shapes, state_bytes

__all__ = [  # noqa: RUF022 - by what they are for
    # what a kind of layer is
    "Mixer",  # a layer that carries states: their shapes, and how it reads the tokens of a pass
    "CallParts",  # what the fused pass needs of one
    "StateShape",  # one tensor of a row's state in one layer
    "Segments",  # which tokens of a pass belong to which slot
    "MIXERS",  # the module for each class of transformers
    "UnsupportedMixer",  # raised where a layer of a known class has a form that is not computed here
    # how they are made
    "mixer_of",  # makes the mixer of one layer
    "mixers_of",  # makes those of a model, by the modules in whose place they stand
    # the states of rows
    "RowStates",  # the states of rows, by slot: enter, leave, put, reading
    "SavedStates",  # copies of some of them
    "Shapes",  # of the states of each layer
    "state_bytes",  # the memory of one row's states
    # what several of them need
    "convolve",  # a causal convolution of each channel, with its last inputs as its state
]
