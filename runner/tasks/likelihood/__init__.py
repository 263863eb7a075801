"""The task likelihood: log-likelihoods, and the reference job that they are compared with."""
