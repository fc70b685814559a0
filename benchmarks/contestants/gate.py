"""What every contestant of a paired benchmark runs under: it works when it is told to, and says how long it took.

A contestant is a process of its own that imports nothing of the others. The conductor (benchmarks/paired.py) writes a
line for each epoch; the contestant answers with a line of JSON. In between it sleeps, so that only one works at a time.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path

WARM = 20  # steps of the first turn, where turns are counted in steps
ANSWER = sys.stdout
sys.stdout = sys.stderr  # what libraries print is not an answer


class Finished(Exception):  # noqa: N818
    """The conductor wants no more."""


class Gate:
    """``wait()`` before an epoch, ``done()`` after it."""

    def wait(self):
        """Sleep until the conductor says go; start the clock."""
        if sys.stdin.readline().strip() != "go":
            raise Finished
        self.start, self.used = time.perf_counter(), _cpu()

    def done(self, **more):
        """Say how long it took: seconds by the clock, and of the processors, and the peak of resident memory."""
        seconds, cpu = time.perf_counter() - self.start, _cpu() - self.used
        peak = _peak()
        ANSWER.write(json.dumps({"seconds": seconds, "cpu": cpu, "peak_gib": peak, **more}) + "\n")
        ANSWER.flush()


def _cpu():
    times = os.times()
    return times.user + times.system


def _peak():
    """Peak resident memory in GiB."""
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage says there includes the parent's, before this process was this program
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def lightning_gate(callback, gate):
    """A Lightning callback that holds each epoch at the gate; ``callback`` is the Callback of the Lightning in use."""

    class Held(callback):
        def on_train_epoch_start(self, trainer, module):
            gate.wait()

        def on_train_epoch_end(self, trainer, module):
            gate.done(steps=trainer.num_training_batches)

    return Held()


def lightning_steps(callback, gate, steps):
    """The same, held after each so many steps, the ends of epochs among them; the first time after 20, which warm up.

    The gate opens at the end of a step, so that each turn fetches as many minibatches as it trains on."""

    class Held(callback):
        left = min(WARM, steps)

        def on_train_start(self, trainer, module):
            gate.wait()

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            self.left -= 1
            if self.left == 0:
                gate.done(steps=steps, epoch_steps=trainer.num_training_batches)
                gate.wait()
                self.left = steps

    return Held()


def lightning_budgets(callback, gate, budgets, score):
    """The same, held at the first end of an epoch after each of so many seconds of training; ``score()`` is answered.

    The clock runs through epochs and between them, and stands still while the model is scored."""

    class Held(callback):
        trained, epochs, passed = 0.0, 0, 0

        def on_train_epoch_start(self, trainer, module):
            if self.epochs == 0:
                gate.wait()
            else:
                self.trained += time.perf_counter() - self.start
            while self.passed < len(budgets) and self.trained >= budgets[self.passed]:
                self.passed += 1
                gate.done(seconds=self.trained, epochs=self.epochs, **score(budgets[self.passed - 1]))
                gate.wait()
            self.epochs += 1
            self.start = time.perf_counter()

    return Held()
