"""Serves a few requests over HTTP with the framework that is named, asked by a client of its own:

    served.py FRAMEWORK

Prints as JSON what the client saw: how many of each method and path had which status.
"""

import asyncio
import collections
import http.client
import json
import logging
import socket
import socketserver
import sys
import threading
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

logging.disable()

# What is asked: 2 is not there, and 3 fails.
REQUESTS = [("GET", f"/servers/{number}") for number in range(10)] + [("POST", "/servers")] * 3 + [("GET", "/nowhere")]


class NotThere(Exception):
    pass


def answer(number):
    if number == 2:
        raise NotThere
    if number == 3:
        raise ValueError("as is wanted")
    return f"server {number}"


def ask(port):
    """Sends the requests one after another and counts what comes back."""
    seen = collections.Counter()
    for method, path in REQUESTS:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request(method, path, headers={"Connection": "close"})
        response = connection.getresponse()
        response.read()
        connection.close()
        seen[f"{method} {path} {response.status}"] += 1
    print(json.dumps(seen), flush=True)


class Quiet(WSGIRequestHandler):
    def log_message(self, *_):
        pass

    def get_stderr(self):
        return open("/dev/null", "w")


class Threads(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


def serve_wsgi(application):
    """With the server of the standard library, a thread for each request."""
    server = make_server("127.0.0.1", 0, application, server_class=Threads, handler_class=Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    ask(server.server_port)
    server.shutdown()


def serve_asgi(application):
    """With uvicorn."""
    import uvicorn

    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(application, log_level="critical", lifespan="off", loop="asyncio", http="h11")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=ask, args=(listener.getsockname()[1],))

    async def run():
        thread.start()
        serving = asyncio.ensure_future(server.serve(sockets=[listener]))
        await asyncio.get_running_loop().run_in_executor(None, thread.join)
        server.should_exit = True
        await serving

    asyncio.run(run())


def with_django():
    from django.conf import settings
    from django.http import Http404, HttpResponse
    from django.urls import path

    def server(request, number):
        try:
            return HttpResponse(answer(number))
        except NotThere:
            raise Http404

    def servers(request):
        return HttpResponse(status=201)

    urls = type(sys)("urls")
    urls.urlpatterns = [path("servers/<int:number>", server), path("servers", servers)]
    sys.modules["urls"] = urls
    settings.configure(ROOT_URLCONF="urls", ALLOWED_HOSTS=["*"], SECRET_KEY="none", DEBUG=False)
    import django

    django.setup()


def django_wsgi():
    with_django()
    from django.core.wsgi import get_wsgi_application

    serve_wsgi(get_wsgi_application())


def django_asgi():
    with_django()
    from django.core.asgi import get_asgi_application

    serve_asgi(get_asgi_application())


def starlette():
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def server(request):
        try:
            return PlainTextResponse(answer(request.path_params["number"]))
        except NotThere:
            raise HTTPException(404)

    async def servers(request):
        return PlainTextResponse("", status_code=201)

    routes = [Route("/servers/{number:int}", server), Route("/servers", servers, methods=["POST"])]
    serve_asgi(Starlette(routes=routes))


def fastapi():
    from fastapi import FastAPI, HTTPException

    application = FastAPI()

    @application.get("/servers/{number}")
    async def server(number: int):
        try:
            return answer(number)
        except NotThere:
            raise HTTPException(404)

    # Runs in another thread.
    @application.post("/servers", status_code=201)
    def servers():
        return None

    serve_asgi(application)


def webob():
    from webob import Response, exc
    from webob.dec import wsgify

    @wsgify
    def servers(request):
        if request.method == "POST":
            return Response(status=201)
        last = request.path_info.rpartition("/")[2]
        if not last.isdigit():
            raise exc.HTTPNotFound()
        try:
            return Response(answer(int(last)).encode())
        except NotThere:
            raise exc.HTTPNotFound()

    serve_wsgi(servers)


FRAMEWORKS = {
    "django-wsgi": django_wsgi,
    "django-asgi": django_asgi,
    "starlette": starlette,
    "fastapi": fastapi,
    "webob": webob,
}
FRAMEWORKS[sys.argv[1]]()
