"""Texts about models that run on a llama.cpp server."""
