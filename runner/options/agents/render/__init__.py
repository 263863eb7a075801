"""Texts and pictures about a team of agents: notes, sandbox protections, and the communication
graph.
"""
