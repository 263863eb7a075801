"""One engine for many clients over HTTP; task=serve starts it."""
