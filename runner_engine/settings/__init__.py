"""The keys that the engine reads, as plain dataclasses; the runner's schema is composed of them."""
