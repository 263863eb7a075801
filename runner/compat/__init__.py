"""Support for users of the older tools: their variables, adapters and splits."""
