"""Files of jobs on disk: identity, configs, samples, measurements and records."""
