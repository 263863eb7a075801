"""The task likelihood: log-likelihoods, and the job that they are compared with."""
