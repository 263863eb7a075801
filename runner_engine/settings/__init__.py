"""Config dataclasses of the engine, which the runner's Hydra schema uses."""
