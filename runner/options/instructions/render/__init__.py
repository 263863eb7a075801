"""Texts that task=instructions prints."""
