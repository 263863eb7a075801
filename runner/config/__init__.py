"""Config schema: every key that a user may set, with type, default and checks that need no
weights.

Config is inert: these dataclasses check themselves and build nothing. Closed choices are
`StrEnum`s whose member names equal their values, because OmegaConf looks a member up by its
name. A field marked `inert` cannot change an answer and stays out of the job's identity. Every
other field counts. Nothing here imports torch.
"""
