"""Accuracy over more images than fit in memory or in one sitting: in chunks, on one or many."""
