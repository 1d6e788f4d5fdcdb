"""An HTTP API on a unix socket, as Docker has one: ask, follow events, attach. The socket's path is the argument."""

import http.server
import socketserver
import sys


class Api(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def address_string(self):
        return "unix"

    def do_GET(self):
        if self.path == "/events":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for number in range(3):
                self.wfile.write(b"8\r\nevent %d\n\r\n" % number)
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")
        else:
            body = b'{"ApiVersion":"1.43"}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def do_POST(self):
        """Attach: the connection becomes a stream in both directions, each of which ends for itself."""
        self.send_response(101)
        self.send_header("Connection", "Upgrade")
        self.send_header("Upgrade", "tcp")
        self.end_headers()
        self.wfile.write(self.rfile.read().upper())
        self.close_connection = True


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


Server(sys.argv[1], Api).serve_forever()
