"""A team of agents that answers one question: communication graph, prompts, and a sandbox for
generated programs.
"""
