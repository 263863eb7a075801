"""Engines for models on servers with OpenAI-compatible APIs. Answers are streamed. No module here imports
torch.
"""
