"""Model loading: weights, quantization, adapters and rotary embeddings."""
