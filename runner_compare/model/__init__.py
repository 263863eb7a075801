"""Data model of a comparison: runs, answers, pairs and tables."""
