"""All benchmarks, one after the other, and BENCHMARKS.md from what they print.

    python benchmarks/bench.py --rival .rivals/bin/python [--only speed_scvi large]

What was run before and is not run now is taken from the folder, so that one table can be made anew."""

import argparse
import datetime
import subprocess
import sys
from pathlib import Path

from paired import HERE, machine

TABLES = {
    "speed_scvi": ("scVI: time of an epoch, PBMC 10k", "speed.py scvi --threads 2", True),
    "speed_scvi_1": ("scVI, one thread", "speed.py scvi --threads 1", True),
    "speed_totalvi": ("totalVI: time of an epoch, PBMC 10k", "speed.py totalvi --threads 2", True),
    "speed_del": ("DELCount: 100,000 compounds with fingerprints", "speed_del.py --threads 2", False),
    "overhead": ("What Pyro and Lightning cost a step", "overhead.py", False),
    "kernels": ("Likelihoods, forward and backward", "kernels.py", False),
    "growth": ("scVI: growth with cells and genes", "growth.py --threads 2", True),
    "in_time": ("scVI: what is learnt in the same time, PBMC 10k", "in_time.py --threads 2", True),
    "large": ("Data on disk", "large.py --cells 10000 100000 1000000 --steps 1000", False),
    "large_zarr": ("Data on disk, zarr", "large.py --zarr --cells 100000 1000000 --steps 1000", False),
}
HEAD = """# Benchmarks

Made by `make bench` from what the programs in `benchmarks/` print. Contestants take turns, an epoch each, so that what
else the machine does meets them alike; figures are medians with the lowest and highest, ratios of the same turn.

cellarium-ml 0.0.15 has no zero-inflated likelihood: it is run with its negative binomial, which spares it the second
output layer. "Our kernel" by hand is the likelihood alone, in a loop with torch's own products, data and Adam; "What
Pyro and Lightning cost" has a loop with all of our kernels. No figure is of a GPU.
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rival", help="a Python that has scvi-tools")
    parser.add_argument("--cellarium", help="a Python that has cellarium-ml")
    parser.add_argument("--only", nargs="+", choices=list(TABLES), default=list(TABLES))
    parser.add_argument("--out", default="runs/bench")
    options = parser.parse_args()
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        _, command, with_rival = TABLES[name]
        program, *arguments = command.split()
        rival = ["--rival", options.rival] if with_rival and options.rival else []
        if command.startswith("speed.py scvi") and options.cellarium:
            rival += ["--cellarium", options.cellarium]
        print(f"{name}: {command}", flush=True)
        ran = subprocess.run(
            [sys.executable, HERE / program, *arguments, *rival], stdout=subprocess.PIPE, text=True, check=True
        )
        note = f"{datetime.date.today()}, {machine()}"
        (folder / f"{name}.md").write_text(f"{note}. `python benchmarks/{command}`\n\n{_shown(ran.stdout)}\n")
    parts = [HEAD]
    for name, (title, *_) in TABLES.items():
        if (folder / f"{name}.md").exists():
            parts.append(f"## {title}\n\n{(folder / f'{name}.md').read_text()}")
    (HERE.parent / "BENCHMARKS.md").write_text("\n".join(parts))


def _shown(text):
    """Markdown tables as they are, and what is set in columns of spaces as a block."""
    return text.strip() if "\n| " in text else f"```\n{text.rstrip()}\n```"


if __name__ == "__main__":
    main()
