"""Which process this is: the system need not be asked for each record."""

import os


class _Here:
    """This process, also after a fork.

    Attributes:
        process_id: Its ID.
    """

    __slots__ = ("process_id",)

    def __init__(self) -> None:
        self.look()

    def look(self) -> None:
        self.process_id = os.getpid()


here = _Here()
os.register_at_fork(after_in_child=here.look)
