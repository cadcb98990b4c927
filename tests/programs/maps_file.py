"""Maps the file that is named last, says so, and waits until its standard input is closed."""

import mmap
import sys

with open(sys.argv[-1], "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
sys.stdout.write("ready\n")
sys.stdout.flush()
sys.stdin.read()
