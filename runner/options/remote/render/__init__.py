"""Renders messages about models on servers."""
