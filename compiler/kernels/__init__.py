"""Generators of exact integer kernels, built with TVM's IRBuilder."""
