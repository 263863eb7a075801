"""What a comparison shows: terminal, Markdown, CSV, JSON, HTML and pictures."""
