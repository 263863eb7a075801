"""What is kept of jobs: their identity, ledger and samples on disk, and their runs in MLflow."""
