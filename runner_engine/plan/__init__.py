"""The load plan of a model, made before torch is imported. Memory prediction and the load both
follow the plan.
"""
