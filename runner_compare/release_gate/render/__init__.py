"""Texts and files of a gate: terminal, Markdown for CI summaries, JUnit XML."""
