"""The kinds of layers that carry a state: each module has `mixer_of(module)`, and `MIXERS` of the
contract names it."""
