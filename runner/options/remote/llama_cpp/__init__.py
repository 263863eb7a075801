"""Starts a llama.cpp server, compares it with the runner's own engine, and stops it. Requests
are sent by runner/options/remote.
"""
