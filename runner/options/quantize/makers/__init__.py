"""Code that runs in the quantizer packages' environments. It is started by its path and
imports nothing of the runner.
"""
