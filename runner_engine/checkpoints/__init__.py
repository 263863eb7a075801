"""Models as files: where they are, what is in them, what they will need. Imports no torch."""
