"""The task task=quantize: a quantizer package writes a quantized model, which is then evaluated
like any model file.
"""
