"""The task recall: hides needles in a long text, asks for them at its end, and checks the answer
exactly.
"""
