"""Renders gate verdicts for the terminal, as Markdown for CI summaries, and as JUnit XML."""
