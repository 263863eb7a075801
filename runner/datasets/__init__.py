"""Questions and prompts from all sources."""
