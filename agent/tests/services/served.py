"""A WSGI application: /work does something; /who takes its time, so that another worker has the next request, and says which
process answers and the name of its agent's socket."""

import os
import sys
import time


def leaf(number):
    return number * number


def application(environ, start_response):
    if environ["PATH_INFO"] == "/who":
        time.sleep(0.05)
        agent = sys.modules.get("_pystap_agent")
        answer = "%d %s" % (os.getpid(), agent.status()["socket"] if agent else "-")
    else:
        answer = "%d" % sum(leaf(number) for number in range(100))
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(answer)))])
    return [answer.encode()]
