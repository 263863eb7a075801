"""What everything stands on and knows nothing of the rest: errors, results, statistics, progress,
the machine."""
