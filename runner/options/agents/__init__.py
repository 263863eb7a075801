"""Teams of agents that answer questions together, with their communication graph, prompts and code
sandbox.
"""
