"""The task agents: teams that answer questions or learn from them, and their calls on disk."""
