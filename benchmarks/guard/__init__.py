"""What catches a change for the worse: the gate, two runs side by side, two commits in turns."""
