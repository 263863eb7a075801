"""What a model that vLLM runs makes known, as text."""
