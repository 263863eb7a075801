"""The task gsm8k: word problems, checks of the score's reliability, and early stopping of
comparisons.
"""
