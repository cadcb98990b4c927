"""How long pystap takes until its help is written: milliseconds from fork to end, each command in turn, 200 turns, with the output
thrown away. `true` is what the machine needs for any program. The smallest and the median say what it costs when nobody else
works, and usually.

    start.py PYSTAP...
"""

import statistics
import subprocess
import sys
import time

TURNS = 200


def took(command):
    begin = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return (time.perf_counter() - begin) * 1e3


def main():
    commands = [["true"]]
    for pystap in sys.argv[1:]:
        commands += [[pystap, *words] for words in ([], ["--help"], ["trace", "--help"], ["--version"])]
    times = [[] for _ in commands]
    for command in commands:
        took(command)
    for _ in range(TURNS):
        for command, all_of_it in zip(commands, times):
            all_of_it.append(took(command))
    print(f"{'smallest':>9} {'median':>9}  milliseconds")
    for command, all_of_it in zip(commands, times):
        print(f"{min(all_of_it):9.2f} {statistics.median(all_of_it):9.2f}  {' '.join(command)}")


main()
