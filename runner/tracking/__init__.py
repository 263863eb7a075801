"""MLflow tracking: stores, connections, runs of jobs and grids, and the command runner-sync."""
