"""Teams of agents that answer questions together: communication graph, prompts, and a sandbox for
programs.
"""
