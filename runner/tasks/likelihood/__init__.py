"""The task likelihood: computes log-likelihoods of given texts, and compares them with those of a
reference job.
"""
