"""Render a comparison for terminal, Markdown, CSV, JSON, HTML and pictures."""
