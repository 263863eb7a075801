"""Renders messages of the package parts: the plan of a split, and problems of its parts."""
