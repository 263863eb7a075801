"""Renders messages about models on a vLLM server."""
