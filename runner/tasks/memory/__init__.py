"""The task memory: the measuring process, metrics and pictures."""
