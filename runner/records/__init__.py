"""What jobs leave on disk: their identity, configs, samples, measurements and records."""
