"""Texts that task=quantize prints."""
