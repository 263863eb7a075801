"""What the making of a quantized model makes known, as text."""
