#!/usr/bin/env python3
"""A model hub on 127.0.0.1, for tests.

    hub_server.py DIR PORTFILE

Serves DIR/OWNER/NAME/FILE as /OWNER/NAME/resolve/main/FILE and answers 404 to everything else. Takes a free port and
writes its number to PORTFILE once it listens. Runs until SIGTERM.
"""

import os
import re
import signal
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path


def make_handler(root):
    """A request handler class that serves the files below `root`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/main/(.+)", self.path)
            path = (root / match[1] / match[2]).resolve() if match else root
            if not (path.is_relative_to(root) and path.is_file()):
                self.send_error(404)
                return
            data = path.read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    return Handler


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: hub_server.py DIR PORTFILE")
    root, port_file = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with HTTPServer(("127.0.0.1", 0), make_handler(root)) as server:
        # Renamed into place: who sees the file sees the whole number.
        partial = port_file.with_name(port_file.name + ".partial")
        partial.write_text(f"{server.server_port}\n")
        os.replace(partial, port_file)
        server.serve_forever()


if __name__ == "__main__":
    main()
