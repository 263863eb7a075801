"""Everything about MLflow: which store, the connection, runs of jobs and grids, runner-sync."""
