"""HTTP server that serves one engine to many clients. task=serve starts it."""
