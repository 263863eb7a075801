"""Texts that task=multiple_choice prints."""
