"""fdforce: machine-learned interatomic potentials trained to forces by finite differences.

The map:

- `fit`, `load_model`, `Calculator`: train, load and use a potential;
- `force_loss_gradient`, `force_loss_gradients`, `scan_epsilon`, `EnergyCode`, `check_code`: the
  method for any energy code;
- `descriptors`: what an atom sees;
- `evaluate`, `predict`, `read_structures`: a model on data.

Units are Å, eV, eV/Å and eV/Å^3. Names are imported when first used, so that ``import fdforce``
takes no time.
"""

import os
from importlib import import_module

# Threads that wait for each other in long busy loops are twelve times slower where another process
# wants a core. libgomp reads this when it is loaded, so it has to stand before anything else.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

__version__ = "0.1.0"

_PUBLIC = {
    "fit": "fdforce.fitting",
    "load_model": "fdforce.model_file",
    "save_model": "fdforce.model_file",
    "Calculator": "fdforce.calculator",
    "force_loss_gradient": "fdforce.callables",
    "force_loss_gradients": "fdforce.callables",
    "scan_epsilon": "fdforce.epsilon",
    "EnergyCode": "fdforce.energy_code",
    "check_code": "fdforce.consistency",
    "evaluate": "fdforce.evaluation",
    "predict": "fdforce.evaluation",
    "read_structures": "fdforce.structures",
    "FdforceError": "fdforce.errors",
    "descriptors": None,
    "models": None,
}

__all__ = sorted([*_PUBLIC, "__version__"])


def __getattr__(name):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'fdforce' has no attribute {name!r}")
    module = _PUBLIC[name]
    if module is None:
        return import_module(f"fdforce.{name}")
    return getattr(import_module(module), name)


def __dir__():
    return __all__
