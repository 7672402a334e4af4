"""Arithmetic on arrays: math, numpy and numba, nothing of fdforce above it.

The contract every kernel keeps is in ``kernels/README.md``.
The folder is imported through the symlink ``fdforce/kernels`` and under that name only.
"""

if __name__ != "fdforce.kernels":
    raise ImportError(
        f"this package is fdforce.kernels and was imported as {__name__}: "
        "write `from fdforce import kernels`"
    )
