"""The task recall: hide needles in a long text, ask for them at its end, and check the answer
exactly.
"""
