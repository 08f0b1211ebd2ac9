"""Which ports processes listen on, and what each says to somebody without a token."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import NamedTuple

import grpc
import psutil
import requests

# One method of every service that some process of Ray offers; who has it must ask for a token first.
METHODS = (
    "/ray.rpc.InternalKVGcsService/InternalKVKeys",
    "/ray.rpc.JobInfoGcsService/GetAllJobInfo",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.ObjectManagerService/Pull",
    "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
    "/ray.rpc.CoreWorkerService/PushTask",
    "/ray.rpc.ReporterService/GetTraceback",
    "/ray.rpc.ReporterService/HealthCheck",
    "/ray.rpc.LogService/ListLogs",
    "/ray.rpc.MetricsService/Export",
    "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
)
COUNTS = "# HELP "
"""How a page for Prometheus begins: counts of requests and processes, to be read and not changed."""


class Port(NamedTuple):
    """A port that a process listens on."""

    host: str
    number: int
    process: str

    @property
    def is_loopback(self) -> bool:
        address = ipaddress.ip_address(self.host)
        mapped = getattr(address, "ipv4_mapped", None)
        return (mapped or address).is_loopback


def listening(pids: Iterable[int]) -> list[Port]:
    found = []
    for pid in pids:
        try:
            process = psutil.Process(pid)
            connections = process.net_connections(kind="inet")
            name = process.name()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        found += [
            Port(one.laddr.ip, one.laddr.port, name)
            for one in connections
            if one.status == psutil.CONN_LISTEN
        ]
    return found


def answers(port: Port) -> set[str]:
    """Say what a port has for somebody without a token: `refused`, `counts`, `served`, or nothing at all."""
    return _grpc_answers(port) or _http_answers(port)


def _grpc_answers(port: Port) -> set[str]:
    found = set()
    with grpc.insecure_channel(f"127.0.0.1:{port.number}") as channel:
        for method in METHODS:
            try:
                channel.unary_unary(method)(b"", timeout=5)
                found.add("served")
            except grpc.RpcError as error:
                code = error.code()  # type: ignore[attr-defined]
                if code == grpc.StatusCode.UNAVAILABLE:
                    return set()  # it speaks another language
                if code == grpc.StatusCode.UNAUTHENTICATED:
                    found.add("refused")
                elif code != grpc.StatusCode.UNIMPLEMENTED:
                    found.add("served")  # whatever it was, the request came through
    return found


def _http_answers(port: Port) -> set[str]:
    found = set()
    for method, path in (("GET", "/"), ("GET", "/api/jobs/"), ("POST", "/api/jobs/")):
        answer = requests.request(method, f"http://127.0.0.1:{port.number}{path}", timeout=5)
        if answer.status_code in (401, 403):
            found.add("refused")
        elif answer.text.startswith(COUNTS):
            found.add("counts")
        elif answer.status_code not in (404, 405):
            found.add("served")
    return found
