"""A server and its clients as green threads of eventlet, in one thread."""

import eventlet
from eventlet.green import socket

CLIENTS, REQUESTS = 50, 40
served = 0


def parse(line):
    return line.strip().upper()


def handle(connection):
    global served
    with connection:
        for _ in range(REQUESTS):
            line = connection.recv(100)
            eventlet.sleep(0)
            served += 1
            connection.sendall(parse(line))


def serve(listener):
    handlers = []
    for _ in range(CLIENTS):
        connection, _ = listener.accept()
        handlers.append(eventlet.spawn(handle, connection))
    for handler in handlers:
        handler.wait()


def ask(address):
    with socket.create_connection(address) as connection:
        for number in range(REQUESTS):
            connection.sendall(b"request %d" % number)
            assert connection.recv(100) == b"REQUEST %d" % number


listener = eventlet.listen(("127.0.0.1", 0))
server = eventlet.spawn(serve, listener)
clients = [eventlet.spawn(ask, listener.getsockname()) for _ in range(CLIENTS)]
for client in clients:
    client.wait()
server.wait()
listener.close()
