"""One piece of work beside the run's own; its failure is the run's."""

import threading
from collections.abc import Callable


class Background:
    """A thread that does one thing at a time. It dies with the process: what it does must be such
    that half of it does no harm."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def begin(self, work: Callable[[], None]) -> None:
        """Do `work`, once what was begun before is done."""
        self.finish()
        self._thread = threading.Thread(target=self._do, args=(work,), daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises what the work has failed with."""
        if self._failure is not None:
            raise self._failure

    def finish(self) -> None:
        """Wait for the work. Raises what it has failed with."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def _do(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as failure:
            self._failure = failure
