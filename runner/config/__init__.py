"""Config schema: all config keys that a user may set, with types, defaults and checks that need no
model weights.

Config is inert: these dataclasses check themselves and build nothing. Closed choices are
`StrEnum`s whose member names equal their values, because OmegaConf looks a member up by its
name. A field marked `inert` cannot change an answer and stays out of the job's identity. Every
other field counts. Nothing here imports torch.
"""
