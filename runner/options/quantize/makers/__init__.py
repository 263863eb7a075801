"""Modules that run inside the Python environments of quantizer packages, so they must not import `runner`."""
