"""MLflow tracking: stores, connections, runs of jobs and grids, and runner-sync."""
