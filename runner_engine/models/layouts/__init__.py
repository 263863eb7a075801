"""layouts – how formats hold codes, scales and zero points: one file for the layouts of a
format."""
