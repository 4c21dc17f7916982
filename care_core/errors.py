"""What can go wrong, as sentences for a person: each says what, where, and what to do."""


class CareError(Exception):
    """An error that needs no traceback: its text is the whole message."""


class SpecError(CareError):
    """The spec asks for something impossible."""


class DataError(CareError):
    """Images are missing, incomplete or damaged."""


class CheckpointError(CareError):
    """A checkpoint cannot be read, or must not be (a pickle that is not tensors)."""


class Interrupted(CareError):
    """Stopped on request at a step's end, with a checkpoint saved."""


class PeerLostError(CareError):
    """Other ranks are gone. `speaks`: this is the lowest rank that is still there."""

    speaks = False


class StorageError(CareError):
    """A folder is not writable, or the disk is full."""
