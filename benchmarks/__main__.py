"""Measure and print the table: `python -m benchmarks [NAME ...] [--rounds N] [--write FILE]`."""

import argparse
import sys
from pathlib import Path

from benchmarks import frame

BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"


def write_into(page: Path, text: str) -> None:
    """Replace the text between the two marks of a page."""
    before, _, rest = page.read_text("utf-8").partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise SystemExit(f"{page} has no lines {BEGIN} and {END}")
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", "utf-8")


def log(line: str) -> None:
    """Print progress to stderr, apart from the table."""
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    """Run the benchmarks, and return 0 if every bar holds, else 1."""
    known = frame.workloads()
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"parts of the names of workloads; all: {', '.join(known)}")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each peer (5)")
    parser.add_argument("--limit", type=float, default=120, help="time limit of one measurement, in seconds (120)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="also put the table into this page")
    parser.add_argument("--measure", nargs=2, metavar=("WORKLOAD", "PEER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        frame.measure_here(*options.measure)
        return 0
    chosen = [w for w in known.values() if not options.names or any(part in w.name for part in options.names)]
    if not chosen:
        parser.error(f"no workload has {' or '.join(options.names)} in its name; there are: {', '.join(known)}")
    results = frame.measure(chosen, options.rounds, options.limit, log)
    text = f"{frame.machine()} Medians of {options.rounds} rounds.\n\n{frame.table(results)}"
    print(text)
    if options.write:
        write_into(options.write, text)
    missed = [row for row in frame.rows(results) if not row.passed]
    print(f"\n{len(missed)} of {len(frame.rows(results))} bars missed or not measured")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
