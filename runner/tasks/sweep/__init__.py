"""The task sweep: cells of settings, and measurements of earlier starts."""
