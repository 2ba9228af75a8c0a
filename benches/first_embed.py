#!/usr/bin/env python3
"""Measure what the first embed of a connection takes, against a warm one, and the memory that it leaves.

    first_embed.py LABEL MODEL MAX_EXTRA_MS|- MAX_RATIO|- MAX_MB PSQL ARGUMENTS...

PSQL and ARGUMENTS connect to the database. The three bars are for the time of the first embed minus that of a warm one,
for the two times' ratio, and for the private memory that the connection has more than before. Prints a line; exits with
1 when a bar is missed.
"""

import re
import statistics
import subprocess
import sys
from pathlib import Path

CONNECTIONS = 9
WARM_EMBEDS = 9


class Connection:
    """A psql that is asked one statement at a time."""

    def __init__(self, command):
        self.psql = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def ask(self, statement):
        """The lines that psql prints."""
        self.psql.stdin.write(f"{statement}\n\\echo end\n")
        self.psql.stdin.flush()
        lines = []
        while (line := self.psql.stdout.readline()) not in ("end\n", ""):
            lines.append(line.rstrip("\n"))
        return lines

    def milliseconds(self, statement):
        times = [match[1] for line in self.ask(statement) if (match := re.match(r"Time: ([\d.]+) ms", line))]
        return float(times[-1])

    def close(self):
        self.psql.stdin.close()
        self.psql.wait()


def private_kilobytes(pid):
    """Pages that the process shares with nobody and has changed."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.search(r"^Private_Dirty: +(\d+) kB$", rollup, re.MULTILINE)[1])


def measure(command, model, number):
    """(ms of the first embed, ms of a warm one, kilobytes before, kilobytes after) of a new connection."""
    connection = Connection(command)
    pid = int(connection.ask("SELECT pg_backend_pid();")[0])
    connection.ask("\\timing on")
    before = private_kilobytes(pid)

    def embed(text):
        # Another text each time, so that no cache answers.
        return connection.milliseconds(f"SELECT embed('{model}', 'hello world {number} {text}') IS NULL;")

    first = embed("first")
    warm = statistics.median(embed(i) for i in range(WARM_EMBEDS))
    after = private_kilobytes(pid)
    connection.close()
    return first, warm, before, after


def main():
    if len(sys.argv) < 7:
        sys.exit("usage: first_embed.py LABEL MODEL MAX_EXTRA_MS|- MAX_RATIO|- MAX_MB PSQL ARGUMENTS...")
    label, model, max_extra, max_ratio, max_mb = sys.argv[1:6]
    measured = [measure(sys.argv[6:], model, number) for number in range(CONNECTIONS)]
    first, warm, before, after = map(statistics.median, zip(*measured))
    grown = (after - before) / 1024
    bars = [(first - warm, max_extra), (first / warm, max_ratio), (grown, max_mb)]
    missed = any(bar != "-" and found > float(bar) for found, bar in bars)
    print(f"{label:<10} {model:<18} first {first:6.1f} ms, warm {warm:5.1f} ms, ratio {first / warm:5.2f}, "
          f"private {grown:5.1f} MB more, {after / 1024:5.1f} MB in all{'   MISSED' if missed else ''}")
    sys.exit(missed)


if __name__ == "__main__":
    main()
