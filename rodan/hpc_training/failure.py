"""What can go wrong, in the two texts that Rodan shows: a sentence, and its details."""


class Failure(Exception):
    """The training can't go on. Rodan shows ``summary`` first and ``details`` on demand.

    The summary says what happened, to what, and what to change. Neither text holds a password.
    """

    def __init__(self, summary: str, details: str = "") -> None:
        # Both go to the base class, so that Celery can send the exception from process to process.
        super().__init__(summary, details)
        self.summary = summary
        self.details = details

    def __str__(self) -> str:
        return self.summary


class BrokerTrouble(Failure):
    """RabbitMQ can't be used now. ``passing`` says whether waiting may help."""

    def __init__(self, summary: str, details: str = "", passing: bool = True) -> None:
        super().__init__(summary, details)
        self.args = (summary, details, passing)
        self.passing = passing
