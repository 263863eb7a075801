"""Config dataclasses that the engine reads. The runner's Hydra schema is composed of these
classes.
"""
