"""Accuracy: predict, score, aggregate; shard by shard, locally or on Ray."""
