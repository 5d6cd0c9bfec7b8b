"""An upstream that holds what it is told to hold, run as a program so that it can be killed.

`python tests/stalling_upstream.py PORT` prints `ready PORT`. A request whose body has `hold` in it
gets no answer, one with `half` the beginning of an answer, any other `{}`. For each that it holds
it prints `holding`, and `let go` when the client has closed the connection.
"""

import re
import socket
import sys
import threading


def talk(connection: socket.socket) -> None:
    with connection:
        data = b""
        while True:
            while b"\r\n\r\n" not in data:
                chunk = connection.recv(65536)
                if not chunk:
                    return
                data += chunk
            head, _, body = data.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", head)
            while len(body) < int(length[1] if length else 0):
                body += connection.recv(65536)
            data = b""
            if b"hold" in body or b"half" in body:
                if b"half" in body:
                    connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"half":')
                say("holding")
                if not connection.recv(1):
                    say("let go")
                return
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
    say(f"ready {server.getsockname()[1]}")
    while True:
        connection, _ = server.accept()
        threading.Thread(target=talk, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main()
