"""Hostile clients of the benchmark `abuse`. They count the statuses that they get, and reconnect when they are closed."""

import heapq
import re
import select
import socket
import struct
import threading
import time
from itertools import count
from urllib.parse import urlsplit

from harness import tls_client

# All attackers connect from this address, the honest client from another one.
ADDRESS = "127.0.0.2"
# Indexes of the counts that are not statuses: requests that were begun, those that were sent completely, those whose
# connection or stream was closed without a response, and connections that could not be opened.
BEGUN, SENT, CLOSED, NOT_CONNECTED = range(4)
COUNTS = 600  # all statuses are below
RECONNECT_AFTER = 0.5  # seconds
SLOW_INTERVAL = 0.5  # seconds between two reads of a slow reader
SLOW_BYTES = 1024  # that a slow reader reads at once
PIECE = 1 << 18  # maximum number of bytes that are sent or received at once
CHUNKED = -1


def progress(counts):
    """The requests that were sent, or ended before that."""
    return counts[SENT] + counts[CLOSED] + counts[NOT_CONNECTED] + sum(counts[100:])


class Request:
    """Bytes to send, which may contain several pipelined requests or only a part of one."""

    def __init__(self, data, requests=1):
        self.data = memoryview(data if isinstance(data, bytes) else data.encode())
        self.requests = requests


class Connection:
    """A non-blocking HTTP/1.1 connection, which sends its next request when all before it have a response."""

    def __init__(self, attack):
        self.attack = attack
        self.socket = None

    def connect(self):
        self.unsent = memoryview(b"")
        self.awaited = 0
        self.received = b""
        self.body_left = None  # None while a head is awaited
        self.socket = socket.socket()
        self.socket.setblocking(False)
        if self.attack.slow:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        # With a reset at the end, no closed connection occupies a port.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        try:
            self.socket.bind((ADDRESS, 0))
            self.socket.connect_ex(self.attack.address)
        except OSError:
            self.attack.counts[NOT_CONNECTED] += 1
            return self.close()
        self.attack.opened[self.socket.fileno()] = self
        self.attack.poll.register(self.socket, select.EPOLLOUT)
        self.take_request()

    def close(self):
        self.attack.counts[CLOSED] += self.awaited
        if self.attack.opened.pop(self.socket.fileno(), None):
            self.attack.poll.unregister(self.socket)
        self.socket.close()
        self.attack.reconnect_later(self)

    def take_request(self):
        if request := next(self.attack.requests, None):
            self.unsent = request.data
            self.awaited = request.requests
            self.attack.counts[BEGUN] += request.requests
            self.attack.poll.modify(self.socket, select.EPOLLOUT | self.attack.read_events)

    def handle(self, events):
        try:
            if events & select.EPOLLOUT:
                self.write()
            # Closed connections are noticed by reading.
            if events & ~select.EPOLLOUT:
                self.read(PIECE)
        except BlockingIOError:
            pass
        except OSError:
            self.close()

    def write(self):
        self.unsent = self.unsent[self.socket.send(self.unsent[:PIECE]):]
        if not self.unsent:
            self.attack.counts[SENT] += self.awaited
            self.attack.poll.modify(self.socket, self.attack.read_events)

    def read(self, size):
        data = self.socket.recv(size)
        if not data:
            raise ConnectionError
        self.received += data
        while self.received and self.parse():
            pass
        if self.body_left is None and not self.awaited:
            if self.unsent:
                raise ConnectionError  # Answered before it was sent: the rest can't be followed by another request.
            self.take_request()

    def parse(self):
        """Consumes a head or a part of a body; returns False if that needs more bytes."""
        if self.body_left is None:
            head, end, rest = self.received.partition(b"\r\n\r\n")
            if not end:
                return False
            self.attack.counts[int(head.split()[1])] += 1
            self.awaited -= 1
            length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
            self.body_left = int(length[1]) if length else CHUNKED
            # The rest begins with the end of the head, which the end of an empty chunked body needs.
            self.received = rest if length else b"\r\n" + rest
        if self.body_left == CHUNKED:
            # A chunked response is never followed by another one, so its end is the end of what was received.
            if not self.received.endswith(b"\r\n0\r\n\r\n"):
                self.received = self.received[-6:]
                return False
            self.received = b""
            self.body_left = None
            return True
        consumed = min(self.body_left, len(self.received))
        self.received = self.received[consumed:]
        self.body_left = self.body_left - consumed or None
        return self.body_left is None


class Attack:
    """Connections that send these requests, one after the other each, until the process is ended.

    When the requests are used up, connections remain open after their last response. A `slow` attack reads only
    SLOW_BYTES of each connection every SLOW_INTERVAL."""

    def __init__(self, requests, connections, slow=False):
        self.requests = iter(requests)
        self.connections = connections
        self.slow = slow
        self.read_events = 0 if slow else select.EPOLLIN

    def __call__(self, url, counts):
        self.address = urlsplit(url).hostname, urlsplit(url).port
        self.counts = counts
        self.poll = select.epoll()
        self.opened = {}
        self.closed = []  # a heap of the times of reconnection
        self.sequence = count()
        for _ in range(self.connections):
            Connection(self).connect()
        next_read = 0
        while True:
            now = time.monotonic()
            while self.closed and self.closed[0][0] <= now:
                heapq.heappop(self.closed)[2].connect()
            if self.slow and next_read <= now:
                next_read = now + SLOW_INTERVAL
                for connection in list(self.opened.values()):
                    self.read_slowly(connection)
            for file, events in self.poll.poll(0.05):
                if connection := self.opened.get(file):
                    connection.handle(events)

    def reconnect_later(self, connection):
        heapq.heappush(self.closed, (time.monotonic() + RECONNECT_AFTER, next(self.sequence), connection))

    @staticmethod
    def read_slowly(connection):
        try:
            connection.read(SLOW_BYTES)
        except BlockingIOError:
            pass
        except OSError:
            connection.close()


# HTTP/2 (RFC 9113): types of frames, and flags.
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
ACK, END_HEADERS = 1, 4
HEADER_TABLE_SIZE, INITIAL_WINDOW_SIZE = 1, 4
FRAME_BYTES = 16_384
DEFAULT_WINDOW = 65_535
STREAMS = 100  # that are open at once
# Statuses of HPACK's static table, by their first byte (RFC 7541, Appendix A).
STATIC_STATUS = dict(zip(range(0x88, 0x8f), (200, 204, 206, 304, 400, 404, 500)))
# HPACK's Huffman codes of the digits (RFC 7541, Appendix B).
DIGITS = {"00000": "0", "00001": "1", "00010": "2"} | {f"{25 + n:06b}": str(3 + n) for n in range(7)}


def frame(kind, flags, stream, payload=b""):
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


def hpack_string(text):
    length = len(text)
    assert length < 127
    return bytes((length,)) + text.encode()


def status_of(block):
    """The status in the headers of a response, whose first field it is; 599 for one that can't be read."""
    while block[0] & 0xe0 == 0x20:  # an update of the table's size
        block = block[1:]
    if status := STATIC_STATUS.get(block[0]):
        return status
    # `:status` is entry 8 of the static table, here with a literal value.
    if block[0] not in (0x08, 0x18, 0x48):
        return 599
    value = block[2:2 + (block[1] & 0x7f)]
    if not block[1] & 0x80:
        return int(value)
    bits = "".join(f"{byte:08b}" for byte in value)
    status = ""
    while len(status) < 3:
        code = next((bits[:length] for length in (5, 6) if bits[:length] in DIGITS), None)
        if code is None:
            return 599
        status += DIGITS[code]
        bits = bits[len(code):]
    return int(status)


class Http2Connection:
    """An HTTP/2 connection over TLS, each of whose streams sends a body without its last byte."""

    def __init__(self, address, counts, path, key, body_bytes):
        self.counts = counts
        self.body_bytes = body_bytes
        self.header_block = (
            b"\x83\x87"  # :method POST, :scheme https
            + b"\x04" + hpack_string(path)
            + b"\x01" + hpack_string("localhost")
            + b"\x0f\x08" + hpack_string(f"Bearer {key}")  # authorization
            + b"\x0f\x10" + hpack_string("application/json"))  # content-type
        plain = socket.create_connection(address, timeout=10, source_address=(ADDRESS, 0))
        self.socket = tls_client("h2").wrap_socket(plain)
        self.socket.settimeout(None)
        self.received = b""
        self.window = DEFAULT_WINDOW
        self.initial_window = DEFAULT_WINDOW
        self.next_stream = 1
        self.windows = {}  # of each open stream
        self.unsent = {}  # bytes of the body of each open stream

    def run(self):
        """Returns when the server closes the connection."""
        try:
            # Without a table, each header block of the server can be read on its own.
            no_table = HEADER_TABLE_SIZE.to_bytes(2) + bytes(4)
            self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, no_table))
            self.read_frame()  # The settings of the server are its first frame.
            while True:
                while len(self.windows) < STREAMS:
                    self.open_stream()
                # If nothing can be sent, only a frame of the server changes that.
                if not self.send_data() or self.is_readable():
                    self.read_frame()
        except OSError:
            self.counts[CLOSED] += len(self.windows)
            self.socket.close()

    def is_readable(self):
        return self.received or self.socket.pending() or select.select([self.socket], [], [], 0)[0]

    def open_stream(self):
        self.socket.sendall(frame(HEADERS, END_HEADERS, self.next_stream, self.header_block))
        self.windows[self.next_stream] = self.initial_window
        self.unsent[self.next_stream] = self.body_bytes - 1
        self.next_stream += 2
        self.counts[BEGUN] += 1

    def send_data(self):
        """Sends a frame of each stream that may send one; returns False if there is none."""
        any_sent = False
        for stream, unsent in self.unsent.items():
            size = min(FRAME_BYTES, unsent, self.windows[stream], self.window)
            if size <= 0:
                continue
            self.socket.sendall(frame(DATA, 0, stream, b" " * size))
            self.window -= size
            self.windows[stream] -= size
            self.unsent[stream] -= size
            self.counts[SENT] += self.unsent[stream] == 0
            any_sent = True
        return any_sent

    def receive(self, size):
        while len(self.received) < size:
            data = self.socket.recv(PIECE)
            if not data:
                raise ConnectionError
            self.received += data
        part, self.received = self.received[:size], self.received[size:]
        return part

    def read_frame(self):
        head = self.receive(9)
        payload = self.receive(int.from_bytes(head[:3]))
        kind, flags, stream = head[3], head[4], int.from_bytes(head[5:])
        if kind == SETTINGS and not flags & ACK:
            for offset in range(0, len(payload), 6):
                name, value = struct.unpack_from("!HI", payload, offset)
                if name == INITIAL_WINDOW_SIZE:
                    self.windows = {stream: window + value - self.initial_window
                                    for stream, window in self.windows.items()}
                    self.initial_window = value
            self.socket.sendall(frame(SETTINGS, ACK, 0))
        elif kind == PING and not flags & ACK:
            self.socket.sendall(frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE and stream == 0:
            self.window += int.from_bytes(payload)
        elif kind == WINDOW_UPDATE and stream in self.windows:
            self.windows[stream] += int.from_bytes(payload)
        elif kind == HEADERS and stream in self.windows:
            self.counts[status_of(payload)] += 1
            self.socket.sendall(frame(RST_STREAM, 0, stream, (8).to_bytes(4)))  # CANCEL
            self.end_stream(stream)
        elif kind == RST_STREAM and stream in self.windows:
            self.counts[CLOSED] += 1
            self.end_stream(stream)
        elif kind == GOAWAY:
            raise ConnectionError

    def end_stream(self, stream):
        del self.windows[stream]
        del self.unsent[stream]


class Http2Bodies:
    """HTTP/2 connections over TLS with as many half-sent bodies as they may have streams."""

    def __init__(self, path, key, body_bytes, connections):
        self.request = path, key, body_bytes
        self.connections = connections

    def __call__(self, url, counts):
        address = urlsplit(url).hostname, urlsplit(url).port

        def connect_repeatedly():
            while True:
                try:
                    connection = Http2Connection(address, counts, *self.request)
                except OSError:
                    counts[NOT_CONNECTED] += 1
                else:
                    connection.run()
                time.sleep(RECONNECT_AFTER)

        threads = [threading.Thread(target=connect_repeatedly) for _ in range(self.connections)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
