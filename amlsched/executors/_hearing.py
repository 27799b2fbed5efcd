"""Handles the messages and answers of workers, and their exits."""

from collections.abc import Callable
from functools import partial

from amlsched.executors._calls import CallFuture
from amlsched.executors._channel import Answer, Kind
from amlsched.executors._driven import State, Worker
from amlsched.executors._handout import Endings, Handout
from amlsched.executors._payload import load
from amlsched.executors._pickling import load_exception
from amlsched.executors._roster import Roster
from amlsched.executors.deaths import OutOfMemoryKills

__all__ = ["Hearing"]


class Hearing:
    """Receives from workers and completes their calls. All methods are called under the manager's lock.

    Args:
        roster: The workers.
        handout: The queue of calls.
        not_loaded: Called with a call that its worker could not load by name, the worker's answer, and completions.
    """

    def __init__(
        self, roster: Roster, handout: Handout, not_loaded: Callable[[CallFuture, Answer, Endings], object]
    ) -> None:
        self._roster, self._handout, self._not_loaded = roster, handout, not_loaded
        self._kills = OutOfMemoryKills()

    def listen(self, worker: Worker) -> None:
        """Process the messages of a worker or its supervisor about itself."""
        for kind, body in worker.channel.messages():
            if kind == Kind.KEPT:
                worker.kept()
                self._roster.set_alarm()
            elif kind == Kind.READY:
                self._roster.failed_starts = 0
                worker.come_up(int(body))
                self._roster.set_alarm()
                self._next_of(worker)
            elif kind == Kind.FAILED_TO_START:
                worker.start_error = load_exception(load(body), "the start of a worker")
            else:
                status, peak_kib = body.split()
                worker.status, worker.peak_bytes = int(status), int(peak_kib) * 1024
                if worker in self._handout.idle:
                    self._handout.idle.remove(worker)

    def hear(self, worker: Worker, endings: Endings) -> None:
        """Process the answers of a worker."""
        for answer in worker.channel.answers(worker.calls):
            call = worker.calls.popleft()
            call.worker = None
            self._handout.note_duration(answer.seconds)
            if call is worker.doomed:
                pass  # it is completed when its worker has exited
            elif answer.kind == Kind.NOT_LOADED and not call.by_value:
                self._not_loaded(call, answer, endings)
            else:
                call.over = True
                endings.append(partial(call.settle, answer.kind, answer.body))
        if worker.channel.has_messages:
            self.listen(worker)
        self._next_of(worker)

    def _next_of(self, worker: Worker) -> None:
        """Continue a worker that has answered: with its next call, an exit, or as idle."""
        self._handout.full = False
        if worker.state is not State.READY or worker.status is not None:
            return
        if worker.calls:
            worker.begin()
        elif not worker.calls_left:
            worker.quit()
            self._roster.set_alarm()
        elif worker not in self._handout.idle:
            self._handout.idle.append(worker)

    def bury(self, worker: Worker, endings: Endings) -> None:
        """Complete the calls of a worker that has exited, together with its supervisor."""
        self.listen(worker)
        self.hear(worker, endings)
        if worker in self._handout.idle:
            self._handout.idle.remove(worker)
        self._handout.queued.extendleft(reversed(worker.take_back()))
        self._handout.full = False
        keeper_code = self._roster.strike_off(worker)
        if worker.doomed is not None:
            worker.doomed.over = True
            endings.append(partial(worker.doomed.end, worker.verdict))
        for call in worker.calls:  # the running one
            if call is not worker.doomed:
                call.over = True
                endings.append(partial(call.end, worker.death(call.name, keeper_code, self._kills)))
            call.worker = None
        if worker.pid is not None:
            self._roster.failed_starts = 0
        elif worker.state is State.STARTING:
            self._roster.failed_starts += 1
            self._handout.give_up(worker.death("", keeper_code, self._kills), endings)
