"""Published claims, and the verdict on each of them from a run."""
