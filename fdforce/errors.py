"""The errors that fdforce raises on purpose.

Every message is one or two lines: what is wrong, where (file, structure index, key), which value
was found, and what to do about it. The command line prints the message alone and ends with exit
status 1.
"""


class FdforceError(Exception):
    """Base of every error with a message meant for the user."""


class DataError(FdforceError):
    """A data file or a structure in it cannot be used."""


class ConfigError(FdforceError):
    """A setting is unknown, out of range, or contradicts another one."""


class ModelFileError(FdforceError):
    """A model file cannot be read, or does not fit what is asked of it."""


class CheckpointError(FdforceError):
    """A checkpoint cannot be read, or does not belong to the run to be resumed."""


class TrainingError(FdforceError):
    """Training cannot go on, for instance because the loss is not a finite number."""


class DynamicsError(FdforceError):
    """Molecular dynamics cannot begin or go on, for instance because it has exploded."""


class CodeError(FdforceError, ValueError):
    """An energy code from outside returned what cannot be right, or contradicts itself."""
