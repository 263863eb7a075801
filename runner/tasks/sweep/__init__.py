"""The task sweep: measures speed for combinations of settings, called cells."""
