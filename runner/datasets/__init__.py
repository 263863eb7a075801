"""Loads questions and prompts from data sets, files, stdin and generators."""
