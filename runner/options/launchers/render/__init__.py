"""Text output about a grid on other machines and about a search."""
