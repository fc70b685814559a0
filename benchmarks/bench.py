"""All benchmarks, one after the other, and BENCHMARKS.md from what they print.

    python benchmarks/bench.py --rival .rivals/bin/python [--only speed_scvi large]

What is not run now, or fails, stays as BENCHMARKS.md has it, so that one table can be made anew. ``RIVAL`` and
``CELLARIUM`` in its commands are Pythons that have scvi-tools and cellarium-ml; the numbers are kept as JSON."""

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
    made, failed = {}, []
    for name in options.only:
        _, command, with_rival = TABLES[name]
        program, *arguments = command.split()
        rival = ["--rival", options.rival] if with_rival and options.rival else []
        if command.startswith("speed.py scvi") and options.cellarium:
            rival += ["--cellarium", options.cellarium]
        print(f"{name}: {command}", flush=True)
        whole = [sys.executable, HERE / program, *arguments, *rival, "--out", str(folder)]
        ran = subprocess.run(whole, stdout=subprocess.PIPE, text=True)
        if ran.returncode:
            failed.append(name)
            continue
        named = {options.rival: "RIVAL", options.cellarium: "CELLARIUM"}
        shown = " ".join([f"python benchmarks/{command}", *(named.get(word, word) for word in rival)])
        made[name] = f"{datetime.date.today()}, {machine()}. `{shown}`\n\n{_shown(ran.stdout)}\n"
        _write(made)
    if failed:
        sys.exit(f"{', '.join(failed)} failed, and BENCHMARKS.md has of them what it had")


def _write(made):
    """BENCHMARKS.md with these tables, and the others that it has."""
    path = HERE.parent / "BENCHMARKS.md"
    kept = dict(part.split("\n\n", 1) for part in path.read_text().split("\n## ")[1:]) if path.exists() else {}
    texts = {title: made.get(name) or kept.get(title) for name, (title, *_) in TABLES.items()}
    parts = [HEAD, *(f"## {title}\n\n{text.rstrip()}\n" for title, text in texts.items() if text)]
    path.write_text("\n".join(parts))


def _shown(text):
    """Markdown tables as they are, and what is set in columns of spaces as a block."""
    return text.strip() if "\n| " in text else f"```\n{text.rstrip()}\n```"


if __name__ == "__main__":
    main()
