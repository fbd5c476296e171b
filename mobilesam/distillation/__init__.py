"""Training: the three schemes of distillation, training from scratch, and one loop for all."""
