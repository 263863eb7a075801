"""Reads and writes the files of jobs: identity, configs, samples, measurements and records."""
