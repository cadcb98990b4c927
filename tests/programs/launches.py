"""Launches a command the way pystap does, says its process id, and then waits to be killed.

Arguments: the pystap executable, `held` or `released`, the program, the command with its arguments.
"""

import os
import signal
import sys

pystap, stage, program, *command = sys.argv[1:]
pid = os.spawnv(os.P_NOWAIT, pystap, [pystap, "hold", str(os.getpid()), program, "--", *command])
_, status = os.waitpid(pid, os.WUNTRACED)
if not os.WIFSTOPPED(status):
    sys.exit("the command was not held")
if stage == "released":
    os.kill(pid, signal.SIGCONT)
    # The command has taken the holder's place once it says something of its own.
else:
    print(pid, flush=True)
signal.pause()
