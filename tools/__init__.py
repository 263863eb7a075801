"""What makes the files that ship with the runner."""
