"""Implements task=quantize: a quantizer package writes a quantized model, which other jobs can then
evaluate.
"""
