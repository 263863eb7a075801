"""What a model that llama.cpp runs makes known, as text."""
