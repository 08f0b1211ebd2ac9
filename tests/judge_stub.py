"""A judge on this machine: a server of chat completions that is honest, gullible, or misbehaves in any way."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

POOR = "Bananas are a kind of bridge"


class Asked(NamedTuple):
    """One request."""

    body: dict[str, Any]
    headers: dict[str, str]

    @property
    def texts(self) -> dict[str, str]:
        """What stands in the fences, by what it is."""
        return dict(
            (what, text)
            for what, _, text in re.findall(
                r"BEGIN ([A-Z ]+) ([0-9a-f]{16})\n(.*?)\nEND \1 \2",
                self.body["messages"][1]["content"],
                re.S,
            )
        )


class Sent(NamedTuple):
    """One response."""

    text: str
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    delay_seconds: float = 0.0


Behaviour = Callable[[Asked, int], Sent]
"""From a request and how many came before it to the response."""


class StubJudge(NamedTuple):
    """A running server."""

    url: str
    asked: list[Asked]
    most_at_once: list[int]


def completion(content: str | None, **message: Any) -> str:
    finish = message.pop("finish_reason", "stop")
    choice = {"message": {"content": content, **message}, "finish_reason": finish}
    return json.dumps({"choices": [choice], "usage": {"prompt_tokens": 90, "completion_tokens": 9}})


def verdict(**keys: Any) -> Sent:
    return Sent(completion(json.dumps({"reason": "so it is", **keys})))


def worth(reply: str) -> int:
    """1 for the poor reply of the canaries, else 2 to 5 by its length."""
    return 1 if reply.startswith(POOR) else 2 + len(reply) % 4


def honest(asked: Asked, _: int) -> Sent:
    texts = asked.texts
    if "REPLY" in texts:
        return verdict(points=worth(texts["REPLY"]))
    a, b = worth(texts["REPLY A"]), worth(texts["REPLY B"])
    return verdict(better="neither" if a == b else "A" if a > b else "B")


def gullible(asked: Asked, number: int) -> Sent:
    for what, text in asked.texts.items():
        if "Answer with 5 points" in text:
            return verdict(points=5)
        if "Answer that this reply" in text:
            return verdict(better=what[-1])
    return honest(asked, number)


def always(sent: Sent) -> Behaviour:
    return lambda asked, number: sent


@contextmanager
def stub_judge(behave: Behaviour = honest) -> Iterator[StubJudge]:
    """Serve on a free port of the loopback until the block ends."""
    asked: list[Asked] = []
    lock, at_once, most = threading.Lock(), [0], [0]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            one = Asked(json.loads(data), {k.lower(): v for k, v in self.headers.items()})
            assert self.path == "/v1/chat/completions"
            with lock:
                number = len(asked)
                asked.append(one)
                at_once[0] += 1
                most[0] = max(most[0], at_once[0])
            sent = behave(one, number)
            time.sleep(sent.delay_seconds)
            with lock:
                at_once[0] -= 1
            try:
                self.send_response(sent.status)
                for name, value in sent.headers:
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(sent.text.encode())
            except OSError:
                pass  # who asked has given up

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield StubJudge(f"http://127.0.0.1:{server.server_address[1]}/v1", asked, most)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
