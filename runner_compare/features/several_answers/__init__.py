"""The feature `several_answers` of the comparison."""
