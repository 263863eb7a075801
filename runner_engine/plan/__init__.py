"""The load plan, decided before torch is imported: memory prediction reads it, and the load executes it."""
