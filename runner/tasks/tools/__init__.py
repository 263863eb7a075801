"""The task tools: offers functions to the model, and compares the calls in its answers with the
expected calls.
"""
