"""A WSGI application: /work does something, /agent says which process answers and the name of its agent's socket."""

import os
import sys


def leaf(number):
    return number * number


def application(environ, start_response):
    if environ["PATH_INFO"] == "/agent":
        answer = "%d %s" % (os.getpid(), sys.modules["_pystap_agent"].status()["socket"])
    else:
        answer = "%d" % sum(leaf(number) for number in range(100))
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(answer)))])
    return [answer.encode()]
