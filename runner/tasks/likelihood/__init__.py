"""The task likelihood: scores log-likelihoods of texts, and compares them with a reference job."""
