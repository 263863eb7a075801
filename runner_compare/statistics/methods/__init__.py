"""Test methods, one module each. Each defines subclasses of `effects.Test`."""
