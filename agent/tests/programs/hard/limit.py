"""Uses every descriptor that it may have, says how many these were, and forks."""

import os
import resource

resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
opened = []
try:
    while True:
        opened.append(os.open("/dev/null", os.O_RDONLY))
except OSError as error:
    problem = error.errno
report = opened.pop()
os.close(report)
report = os.open("report", os.O_CREAT | os.O_WRONLY)
os.write(report, repr((opened, report, problem)).encode())
for number in range(5):
    pid = os.fork()
    if pid == 0:
        os.write(report, b"\nchild %d" % number)
        os._exit(number)
    os.write(report, b"\nended with %d" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
