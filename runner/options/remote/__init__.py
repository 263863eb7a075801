"""Engines for models behind OpenAI-compatible HTTP APIs, with streamed answers. Nothing in
this package imports torch.
"""
