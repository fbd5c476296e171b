"""The published claims as a ledger, and the verdict that a run allows on each of them."""
