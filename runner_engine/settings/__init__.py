"""Config dataclasses of the engine. The runner's Hydra schema consists of these classes."""
