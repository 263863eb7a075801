"""What a team of agents makes known: notes, protections and a picture of its graph."""
