"""The task sweep: measures speed in cells of settings, and reuses measurements of earlier starts."""
