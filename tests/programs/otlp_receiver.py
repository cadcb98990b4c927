"""A receiver of OTLP over HTTP: writes its port, then each request that it takes as a line of JSON.

    otlp_receiver.py [--answers CODE,...] [FILE]

With a file that has a key and its certificate it speaks TLS. The first requests are answered with these codes and not taken, and told
by them.
Every body is parsed by the classes that OpenTelemetry publishes, and one that they cannot parse is told as an error.
"""

import http.server
import json
import ssl
import sys

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

KINDS = {"/v1/metrics": ExportMetricsServiceRequest, "/v1/traces": ExportTraceServiceRequest}


options = sys.argv[1:]
answers = []
if options[:1] == ["--answers"]:
    answers = [int(code) for code in options[1].split(",")]
    del options[:2]


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if answers:
            code = answers.pop(0)
            print(json.dumps({"answered": code}), flush=True)
            self.send_response(code)
            self.send_header("Retry-After", "0")
            self.end_headers()
            return
        try:
            request = KINDS[self.path].FromString(body)
            said = {"path": self.path, "request": MessageToDict(request)}
            code = 200
        except Exception as error:
            said = {"error": repr(error)}
            code = 400
        print(json.dumps(said), flush=True)
        self.send_response(code)
        self.end_headers()

    def log_message(self, *_):
        pass


server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
if options:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(options[0])
    server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_port, flush=True)
server.serve_forever()
