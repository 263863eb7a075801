"""task=quantize: a quantizer package writes a quantized model, which is evaluated like any
other file.
"""
