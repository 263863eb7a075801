"""Commands `runner-compare gate`, which decides whether candidates may ship, and `runner-compare pack`.

The steps: read a baseline and candidates (runs.py) → check each candidate against the policy
(compute.py) → print the verdicts, and write files for CI (render/).
"""
