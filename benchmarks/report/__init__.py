"""Tables and plots, made from records and from nothing else."""
