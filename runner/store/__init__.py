"""What is kept of jobs: identity, ledger and samples on disk, runs in MLflow."""
