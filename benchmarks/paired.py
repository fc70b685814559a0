"""Contestants in turn: an epoch of each, again and again, so that what else the machine does meets them alike."""

import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


class Contestant:
    """A process that works when told to; see contestants/gate.py."""

    def __init__(self, name, command, threads=2, tree=HERE.parent):
        self.name = name
        threads = str(threads)
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        environment["PYTHONPATH"] = os.pathsep.join([str(tree), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if not os.environ.get("BENCH_VERBOSE") else None,
            text=True,
            env=environment,
        )

    def go(self):
        """One epoch."""
        try:
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            error = self.process.communicate()[1] or ""
            raise RuntimeError(f"{self.name} ended: {error[-3000:]}")
        return json.loads(line)

    def end(self):
        """No more."""
        if self.process.poll() is None:
            self.process.communicate("stop\n", timeout=120)


def race(commands, repeats=7, warm_up=2, threads=2, contestant=Contestant):
    """Name -> its epochs (dicts of seconds, cpu, peak_gib); the order turns round by one each time."""
    contestants = [contestant(name, command, threads) for name, command in commands.items()]
    try:
        for one in contestants:
            for _ in range(warm_up):
                one.go()
        found = {one.name: [] for one in contestants}
        for turn in range(repeats):
            at = turn % len(contestants)
            for one in contestants[at:] + contestants[:at]:
                found[one.name].append(one.go())
    finally:
        for one in contestants:
            one.end()
    return found


def table(found, base):
    """Markdown: seconds an epoch (median, lowest to highest), and the ratio to ``base`` of each turn."""
    lines = [f"| | seconds an epoch | of {base}'s | peak memory, GiB |", "| --- | --- | --- | --- |"]
    for name, epochs in found.items():
        ratios = [mine["seconds"] / theirs["seconds"] for mine, theirs in zip(epochs, found[base], strict=True)]
        peak = max(epoch["peak_gib"] for epoch in epochs)
        lines.append(f"| {name} | {spread([e['seconds'] for e in epochs])} | {spread(ratios)} | {peak:.2f} |")
    return "\n".join(lines)


def spread(values):
    """Median (lowest to highest)."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def machine():
    """What ran it, in words."""
    model = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    import torch

    return f"{model}, {os.cpu_count()} cores; Python {platform.python_version()}, torch {torch.__version__}"


def keep(folder, name, found, **more):
    """Write the numbers as JSON."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    record = {"name": name, "machine": machine(), "argv": sys.argv, **more, "found": found}
    (folder / f"{name}.json").write_text(json.dumps(record, indent=1))
