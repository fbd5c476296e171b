"""The inference path for CPUs: encoder, decoder and kernels."""
