"""Text output about models that llama.cpp runs."""
