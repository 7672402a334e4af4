"""Kernels compiled by Numba for the CPU; the contract is in ``kernels/README.md``."""
