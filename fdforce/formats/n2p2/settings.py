"""n2p2's input.nn: keywords, and what each is for.

``keyword values # comment``, in any order; a ``!`` begins a comment as well.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from fdforce.errors import ModelFileError
from fdforce.formats.n2p2.text import read_lines
from fdforce.formats.numbers import to_integer, to_number

NAME = "input.nn"

ALMOST = 0.9
"""Twice the letters that two keywords share, over the letters of both, to be taken for one."""


def _words(text: str) -> list[str]:
    return text.split()


ALIASES = {
    "symfunction": "symfunction_short",
    "nnp_generation": "nnp_type",
    "nnp_type_gen": "nnp_type",
    "nnp_gen": "nnp_type",
    "nn_type": "nnp_type",
    "short_energy_fraction": "energy_fraction",
    "short_force_fraction": "force_fraction",
    "short_energy_error_threshold": "rmse_threshold_energy",
    "short_force_error_threshold": "rmse_threshold_force",
}

MODEL = _words(
    "number_of_elements elements atom_energy cutoff_type symfunction_short nnp_type "
    "global_hidden_layers_short global_nodes_short global_activation_short "
    "element_hidden_layers_short element_nodes_short element_activation_short "
    "mean_energy conv_energy conv_length"
)
"""What a potential and its training have in common."""

SCALING = _words(
    "scale_symmetry_functions center_symmetry_functions scale_symmetry_functions_sigma "
    "scale_min_short scale_max_short"
)

REPEATED = (
    "symfunction_short",
    "atom_energy",
    "element_hidden_layers_short",
    "element_nodes_short",
    "element_activation_short",
)

TRAINING = _words("epochs random_seed test_fraction updater_type use_short_forces")
"""What training uses as well."""

UNUSED = {
    "the optimizers of fdforce have settings of their own ([optimizer])": _words(
        "parallel_mode jacobian_mode update_strategy kalman_type kalman_epsilon kalman_q0 "
        "kalman_qtau kalman_qmin kalman_eta kalman_etatau kalman_etamax kalman_lambda_short "
        "kalman_nue_short gradient_type gradient_eta gradient_adam_eta gradient_adam_beta1 "
        "gradient_adam_beta2 gradient_adam_epsilon"
    ),
    "every epoch takes all energies and forces; fdforce has no update candidates": _words(
        "energy_fraction force_fraction force_energy_ratio selection_mode selection_mode_energy "
        "selection_mode_force rmse_threshold rmse_threshold_energy rmse_threshold_force "
        "rmse_threshold_trials rmse_threshold_trials_energy rmse_threshold_trials_force "
        "task_batch_size_energy task_batch_size_force repeated_energy_update"
    ),
    "n2p2 weighs single updates of whole energies and force components, fdforce the errors of all "
    "of them relative to the spread of the labels (loss.energy_weight, loss.force_weight)": [
        "force_weight"
    ],
    "initial weights keep the variance from layer to layer": _words(
        "weights_min weights_max nguyen_widrow_weights_short precondition_weights normalize_nodes"
    ),
    "labels are kept in physical units, of which the spread is taken out": ["normalize_data_set"],
    "a run directory has files of its own": _words(
        "main_error_metric write_trainpoints write_trainforces write_weights_epoch "
        "write_neuronstats write_trainlog memorize_symfunc_results"
    ),
    "charges are not part of the model": _words(
        "conv_charge global_hidden_layers_electrostatic global_nodes_electrostatic "
        "global_activation_electrostatic element_hidden_layers_electrostatic "
        "element_nodes_electrostatic element_activation_electrostatic fixed_gausswidth "
        "ewald_truncation_error_method ewald_prec screen_electrostatics four_pi_epsilon "
        "initial_hardness charge_fraction use_old_weights_charge nguyen_widrow_weights_charge "
        "write_traincharges rmse_threshold_charge rmse_threshold_trials_charge "
        "selection_mode_charge task_batch_size_charge"
    ),
}
"""Why -> keywords of n2p2 that fdforce has no use for."""

KNOWN = {
    *MODEL, *SCALING, *TRAINING, "use_old_weights_short",
    *(keyword for keywords in UNUSED.values() for keyword in keywords),
}  # fmt: skip

REFUSED = {
    "use_electrostatics": "adds electrostatic energies, which fdforce has not",
    "use_vdw": "adds dispersion energies, which fdforce has not",
    "global_symfunction_short": "write its symfunction_short lines out",
    "element_symfunction_short": "write its symfunction_short lines out",
    "cutoff_alpha": "write it as the second number of cutoff_type",
}
"""Keywords of RuNNer that change the energy and that n2p2 would skip."""


@dataclass
class Settings:
    """The keywords of an input.nn.

    Attributes
    ----------
    path : Path
    entries : dict of str to list of (int, str, list of str)
        Keyword (of aliases, the first name) -> line, keyword as written and values of each
        occurrence.
    """

    path: Path
    entries: dict[str, list[tuple[int, str, list[str]]]] = field(default_factory=dict)

    def __contains__(self, keyword: str) -> bool:
        return keyword in self.entries

    def problem(self, line: int, what) -> ModelFileError:
        """An error about a line."""
        return ModelFileError(f"{self.path}, line {line}: {what}")

    def all(self, keyword: str) -> list[tuple[int, list[str]]]:
        """Line and values of every occurrence."""
        return [(line, values) for line, _, values in self.entries.get(keyword, [])]

    def words(self, keyword: str, n: int | None = None) -> list[str]:
        """Values of a keyword that has to be there, `n` of them where that is fixed.

        Raises
        ------
        ModelFileError
        """
        if keyword not in self:
            raise ModelFileError(f"{self.path}: the keyword {keyword} is missing")
        line, values = self.all(keyword)[0]
        if n is not None and len(values) != n:
            raise self.problem(line, f"{keyword} has {len(values)} values instead of {n}")
        return values

    def number(self, keyword: str, default: float | None = None) -> float:
        """The value of a keyword with one number."""
        if keyword not in self and default is not None:
            return default
        return self.convert(to_number, keyword, self.words(keyword, 1)[0])

    def integer(self, keyword: str, default: int | None = None) -> int:
        """The value of a keyword with one whole number, at least 0."""
        if keyword not in self and default is not None:
            return default
        return self.convert(to_integer, keyword, self.words(keyword, 1)[0])

    def convert(self, convert, keyword: str, word: str, line: int | None = None):
        """A word as a number, with the line in the error."""
        try:
            return convert(word)
        except ValueError as problem:
            if line is None:
                line = self.all(keyword)[0][0]
            raise self.problem(line, f"{keyword}: {problem}") from None


def read_settings(path: Path) -> Settings:
    """Read an input.nn.

    Keywords that nobody knows are kept, as n2p2 does; `KNOWN` tells them. One that is almost one
    of `MODEL` or `SCALING` is a slip: n2p2 warns and computes something else than what is meant.

    Raises
    ------
    ModelFileError
        A keyword given twice, or misspelt, or one of `REFUSED`.
    """
    settings = Settings(path)
    for line, (name, *values) in read_lines(path, ModelFileError, "#!"):
        keyword = ALIASES.get(name, name)
        if keyword in REFUSED:
            raise settings.problem(line, f"{name}: {REFUSED[keyword]}")
        before = settings.entries.setdefault(keyword, [])
        if before and keyword in KNOWN and keyword not in REPEATED:
            raise settings.problem(line, f"{name} is given twice, first in line {before[0][0]}")
        meant = [] if keyword in KNOWN else get_close_matches(keyword, MODEL + SCALING, 1, ALMOST)
        if meant:
            raise settings.problem(line, f"{name:.60}: is {meant[0]} meant? Else leave it out")
        before.append((line, name, values))
    if not any(keyword in KNOWN for keyword in settings.entries):
        raise ModelFileError(f"{path}: has no keyword of n2p2")
    return settings
