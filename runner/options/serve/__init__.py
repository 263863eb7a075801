"""Serves one engine to many clients over HTTP. task=serve starts it."""
