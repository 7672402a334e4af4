"""What an atom sees: one module per family of descriptors."""

from fdforce.descriptors.chebyshev import Chebyshev

DESCRIPTORS = {"chebyshev": Chebyshev}

__all__ = ["DESCRIPTORS", "Chebyshev"]
