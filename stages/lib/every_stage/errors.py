"""What a user can cause and fix."""


class UserError(Exception):
    """Bad input or an impossible demand. The message says what was found, what was needed and what to do."""


def require(condition: bool, key: str, found: object, needed: str) -> None:
    """Raise UserError naming the full key unless `condition` holds."""
    if not condition:
        raise UserError(f"{key}: found {found!r}, needed {needed}")


FOREIGN = (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError, AssertionError)
"""What a model's own code raises where it can't do what it is asked; NotImplementedError is a RuntimeError."""
