"""A server and its clients as green threads of eventlet, in one thread."""

import eventlet
from eventlet.green import socket


def parse(line):
    return line.strip().upper()


def handle(connection):
    with connection:
        for _ in range(5):
            line = connection.recv(100)
            eventlet.sleep(0)
            connection.sendall(parse(line))


def serve(listener, count):
    for _ in range(count):
        connection, _ = listener.accept()
        eventlet.spawn(handle, connection)


def ask(address):
    with socket.create_connection(address) as connection:
        for number in range(5):
            connection.sendall(b"request %d" % number)
            connection.recv(100)


listener = eventlet.listen(("127.0.0.1", 0))
server = eventlet.spawn(serve, listener, 20)
clients = [eventlet.spawn(ask, listener.getsockname()) for _ in range(20)]
for client in clients:
    client.wait()
server.wait()
eventlet.sleep(0.01)
listener.close()
