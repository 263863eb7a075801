"""Text output about a split, its plan and its check."""
