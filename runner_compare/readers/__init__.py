"""What other tools have written, read as runs: a module for each tool, none of which imports the tool.

A module has `recognises(path, content)`, whether a file is the tool's, and `read(path, content)`, which returns the
runs in it (`tool_run.py`). `files.py` reads files without trusting them, `load.py` finds them and makes runs of a
comparison.
"""
