"""Texts about models that run on a vLLM server."""
