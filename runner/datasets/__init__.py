"""Questions and prompts, wherever they come from."""
