"""The feature `changed_answers` of the comparison."""
