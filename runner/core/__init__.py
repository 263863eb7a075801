"""Foundation of all other packages, without dependencies on them: errors, results, statistics,
progress, machine.
"""
