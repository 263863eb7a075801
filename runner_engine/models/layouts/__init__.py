"""Tensor layouts: how each quantization format stores codes, scales and zero points."""
