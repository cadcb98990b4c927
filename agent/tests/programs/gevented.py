"""A server and its clients as greenlets of gevent, in one thread."""

import gevent
from gevent import socket
from gevent.server import StreamServer

CLIENTS, REQUESTS = 50, 40
served = 0


def parse(line):
    return line.strip().upper()


def handle(connection, _address):
    global served
    for _ in range(REQUESTS):
        line = connection.recv(100)
        gevent.sleep(0)
        served += 1
        connection.sendall(parse(line))


def ask(address):
    connection = socket.create_connection(address)
    for number in range(REQUESTS):
        connection.sendall(b"request %d" % number)
        assert connection.recv(100) == b"REQUEST %d" % number
    connection.close()


server = StreamServer(("127.0.0.1", 0), handle)
server.start()
clients = [gevent.spawn(ask, server.address) for _ in range(CLIENTS)]
gevent.joinall(clients, raise_error=True)
server.stop()
