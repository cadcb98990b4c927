"""Says that it runs, then waits until its standard input is closed. Stays alive as long as a test holds the pipe."""

import sys

sys.stdout.write("ready\n")
sys.stdout.flush()
sys.stdin.read()
