"""Modules that run in the Python environments of quantizer packages. They must not import `runner`."""
