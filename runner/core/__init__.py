"""Base package that all other packages import. It contains errors, results, statistics and
progress.
"""
