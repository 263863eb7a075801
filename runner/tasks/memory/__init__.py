"""The task memory: the process that measures, the figures and the pictures."""
