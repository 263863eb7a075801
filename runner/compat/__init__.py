"""For those who come from the older tools: their variables, adapters and splits. Nothing else needs it."""
