"""The local engine: a transformers model on this machine."""
