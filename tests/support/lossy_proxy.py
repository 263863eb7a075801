"""A proxy before a real server that loses one answer: the server has done what was asked, and
nobody hears of it."""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

OF_A_CONNECTION = {"transfer-encoding", "connection", "content-length", "content-encoding"}


@contextlib.contextmanager
def lossy_proxy(port: int, lost: str, meanwhile: Callable[[], None]) -> Iterator[str]:
    """Yield the address of a proxy that loses the first answer to a request whose path contains
    `lost`.

    meanwhile: what happens before the client notices that, such as the server's end.
    """
    left = [lost]

    class Handler(BaseHTTPRequestHandler):
        """Forwards each request."""

        def do(self) -> None:
            """Ask the server, and pass its answer on, or lose it."""
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            length = int(self.headers.get("Content-Length") or 0)
            left_out = {"accept-encoding", "transfer-encoding", "content-length"}
            headers = {key: it for key, it in self.headers.items() if key.lower() not in left_out}
            if "Transfer-Encoding" in self.headers:  # an empty file
                assert self.rfile.readline().strip() == b"0"
                self.rfile.readline()
            try:
                connection.request(self.command, self.path, self.rfile.read(length), headers)
                answer = connection.getresponse()
                body = answer.read()
            except (OSError, http.client.HTTPException):
                return  # without a server, the client's connection ends, too
            finally:
                connection.close()
            if left and left[0] in self.path:
                left.clear()
                meanwhile()
                return
            self.send_response(answer.status)
            for key, value in answer.getheaders():
                if key.lower() not in OF_A_CONNECTION:
                    self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
    assert not left, f"nothing was asked of {lost}"
