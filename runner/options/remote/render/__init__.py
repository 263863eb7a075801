"""Renders messages about models on servers. Nothing is computed in this package."""
