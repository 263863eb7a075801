"""Config dataclasses that the engine reads. The runner's schema is composed of them."""
