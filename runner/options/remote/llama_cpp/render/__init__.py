"""Renders messages about models on a llama.cpp server."""
