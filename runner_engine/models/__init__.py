"""From files to a loaded model: weights, quantization, adapters, rotary embeddings."""
