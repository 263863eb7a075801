"""Starts and stops a llama.cpp server, and compares its results with those of the runner's engine.

The package runner/options/remote sends the requests.
"""
