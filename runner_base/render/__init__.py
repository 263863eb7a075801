"""How values of all packages become text."""
