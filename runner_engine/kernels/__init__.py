"""Builds, loads and calls the engine's C kernels."""
