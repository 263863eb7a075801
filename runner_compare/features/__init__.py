"""Features of the comparison report, such as the Pareto front. Each has a folder and an entry in
registry.py.
"""
