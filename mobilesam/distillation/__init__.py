"""How a student is trained to see as its teacher does."""
