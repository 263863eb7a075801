"""What a split, its plan and its check make known, as text."""
