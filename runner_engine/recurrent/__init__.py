"""Recurrent layers (state space models, linear attention), and the recurrent states of sequences.

Each kind of layer is a module of `mixers/` that the table `MIXERS` names.
"""

from runner_engine.recurrent.convolution import convolve
from runner_engine.recurrent.mixer import (
    MIXERS,
    Mixer,
    Segments,
    StateShape,
    UnsupportedMixer,
    create_mixer,
    create_recurrent_layer_mixers,
)
from runner_engine.recurrent.mixer_parts import ChannelProducts, MixerParts
from runner_engine.recurrent.sequence_states import (
    SavedStates,
    SequenceStates,
    Shapes,
    recurrent_state_nbytes,
)

__all__ = [  # noqa: RUF022 - by what they are for
    # what a kind of layer is
    "Mixer",  # a layer that carries states: their shapes, and how it reads the tokens of a pass
    "MixerParts",  # what the fused pass needs of one
    "ChannelProducts",  # the products between convolution and recurrence of a Mamba layer
    "StateShape",  # one tensor of a row's state in one layer
    "Segments",  # which tokens of a pass belong to which slot
    "MIXERS",  # the module for each class of transformers
    "UnsupportedMixer",  # raised where a layer of a known class has a form that is not computed here
    # how they are made
    "create_mixer",  # makes the mixer of one layer
    "create_recurrent_layer_mixers",  # makes those of a model, by the modules in whose place they stand
    # the states of rows
    "SequenceStates",  # the states of rows, by slot: enter, leave, put, reading
    "SavedStates",  # copies of some of them
    "Shapes",  # of the states of each layer
    "recurrent_state_nbytes",  # the memory of one row's states
    # what several of them need
    "convolve",  # a causal convolution of each channel, with its last inputs as its state
]
