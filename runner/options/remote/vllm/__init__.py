"""Starts and stops a vLLM server and verifies its results. The parent package sends its requests."""
