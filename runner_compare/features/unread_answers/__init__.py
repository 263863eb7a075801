"""The feature `unread_answers` of the comparison."""
