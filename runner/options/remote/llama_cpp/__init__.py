"""Starts a llama.cpp server, compares its results with the runner's engine, and stops the
server.

The package runner/options/remote sends the requests.
"""
