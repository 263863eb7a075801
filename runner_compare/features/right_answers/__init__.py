"""The feature `right_answers` of the comparison."""
