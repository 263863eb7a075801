"""HTTP server of task=serve, which serves one engine to many clients."""
