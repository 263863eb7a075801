"""task=quantize: the makers' own packages write a quantized model; what they made is evaluated like
any other file."""
