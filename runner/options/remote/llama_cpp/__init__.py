"""Starts a llama.cpp server, compares it with the runner's engine, and stops it. The package
runner/options/remote sends its requests.
"""
