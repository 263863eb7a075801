"""Starts a vLLM server, checks its results and stops it. The package runner/options/remote sends
its requests.
"""
