"""The local engine: runs a transformers model on this machine."""
