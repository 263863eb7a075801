"""Texts that task=code prints."""
