"""What a user can cause and mend."""


class UserError(Exception):
    """Bad input or an impossible demand. The message says what was found, what was needed and what to do."""
