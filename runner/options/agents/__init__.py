"""A team of agents answers a question together. This package has its communication graph, its
prompts, and a sandbox for generated programs.
"""
