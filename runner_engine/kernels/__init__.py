"""The engine's C kernels: building, loading and calling them."""
