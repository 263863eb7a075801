"""Text output of task=quantize."""
