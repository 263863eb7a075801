"""Text output about models that vLLM runs."""
