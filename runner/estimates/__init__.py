"""Estimates a job's memory, whether it fits, and its time, before it runs and without importing
torch.
"""
