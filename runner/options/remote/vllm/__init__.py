"""Starts a vLLM server, checks it and stops it. Requests are sent by runner/options/remote."""
