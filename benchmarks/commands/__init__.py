"""What each command does, once its line is parsed; imported one at a time."""
