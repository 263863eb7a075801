"""Modules that run inside quantizer packages' environments. They are started by file path and
import nothing of the runner.
"""
