"""What runs in makers' environments: started by its path, it imports nothing of the runner."""
