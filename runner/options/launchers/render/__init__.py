"""What a grid on other machines and a search make known, as text."""
