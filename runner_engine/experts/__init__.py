"""The experts of a mixture, each with matrices of its own. These names are what the engine needs of
this folder.

transformers fuses the experts of a layer into parameters with three dimensions, which no library
quantizes. Taken apart, each matrix is a linear layer like any other, under the name that
checkpoints have for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner_base.first_use import at_first_use

if TYPE_CHECKING:
    from runner_engine.experts.form import Form as Form
    from runner_engine.experts.form import apart as apart
    from runner_engine.experts.form import form_of as form_of
    from runner_engine.experts.left_out import LeftOut as LeftOut
    from runner_engine.experts.left_out import leaving_out as leaving_out
    from runner_engine.experts.left_out import numbers_left_out as numbers_left_out
    from runner_engine.experts.separate import Expert as Expert
    from runner_engine.experts.separate import SeparateExperts as SeparateExperts
    from runner_engine.experts.separate import separate_all as separate_all
    from runner_engine.experts.separate import separated as separated
    from runner_engine.experts.use import ExpertUse as ExpertUse

PLACES = {
    # a layer's experts
    "SeparateExperts": "separate",  # stands in place of the family's module; each expert is a child, by its number
    "Expert": "separate",  # one expert: gate_proj unless its family has none, up_proj, down_proj
    "separated": "separate",  # what stands in place of a family's module of fused experts
    "separate_all": "separate",  # puts that in place of each such module of a model
    "ExpertUse": "use",  # counts how often each expert is chosen
    # while a model is read
    "leaving_out": "left_out",  # a context in which models are built without their fused experts
    "LeftOut": "left_out",  # what stands in their place
    "numbers_left_out": "left_out",  # how many numbers a model lacks for that
    # how a family fuses them
    "Form": "form",  # transposed, interleaved, with a gate, with biases …
    "form_of": "form",  # the form of a module; None if it has no fused experts that can be taken apart
    "apart": "form",  # a matrix of one expert, out of a fused parameter
    "together": "form",  # what its two matrices give, as the family's own gate takes it
}

__all__ = [*PLACES]

__getattr__ = at_first_use(__name__, PLACES)
