"""Rodan's numbers for the states of a run job."""


class task_status:  # noqa: N801
    """As Rodan calls it."""

    SCHEDULED = 0
    PROCESSING = 1
    FINISHED = 4
    FAILED = -1
    CANCELLED = 9
