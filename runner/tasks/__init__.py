"""The work: a task is a module with its own config; tasks never import each other."""
