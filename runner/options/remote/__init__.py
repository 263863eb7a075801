"""Engines for models on servers with OpenAI-compatible HTTP APIs. Answers are streamed. Nothing in
this package imports torch.
"""
