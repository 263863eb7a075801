"""Implements task=serve, which serves the job's model over HTTP until it is stopped.

Each start runs the job again and records its totals. Requests and responses are not logged.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from contextlib import closing
from dataclasses import dataclass, field

from runner.config.resolved import ResolvedJob
from runner.config.root import RunnerConfig
from runner.engines.kinds import get_model_kind
from runner.options.serve.keys import ServeConfig
from runner.options.serve.model_names import check_adapter_names, make_served_model_name
from runner.options.serve.render.start_message import format_start_message
from runner.render.engine_notes import render_engine_notes
from runner.render.notes import render_notes
from runner.tasks.base import TaskContext, TaskInputs, Uses, typed_task_config
from runner.tasks.named_adapters import build_adapter_memory_notes
from runner_base import MIB, ConfigError, Result, machine, print_message, signals, suppress_heartbeat
from runner_base.addresses import is_loopback
from runner_engine import Driver

VERSION = 1
USES = frozenset({Uses.weights, Uses.engine})
FROM_LEDGER = False

KEY = "RUNNER_API_KEY"
KERNELS = 64  # kernels are cached by shape, and a server meets ever new numbers of tokens and rows
BACKLOG = 1024  # connections that may wait to be accepted


@dataclass
class ServeInputs(TaskInputs):
    """Input of task=serve: its config, and the API key for clients, which is never printed."""

    task: ServeConfig
    key: str | None = field(repr=False)


def prepare(config: RunnerConfig) -> ServeInputs:
    """Read the API key. Raises ConfigError if the address is in use, or if a public address has no
    API key.
    """
    task = typed_task_config(config, ServeConfig)
    check_adapter_names(config, task)
    key = os.environ.get(KEY, "").strip() or None
    if key is not None and not (key.isascii() and key.isprintable() and " " not in key):
        raise ConfigError(
            (f"{KEY} (value hidden): invalid API key. Use printable ASCII characters without spaces"),
            code="bad_value",
        )
    if key is None and not is_loopback(task.host):
        raise ConfigError(
            (
                f"this address is reachable from other machines and needs an API key. Set {KEY} in the "
                "environment or in .env, or use task.host=127.0.0.1"
            ),
            key="task.host",
            value=task.host,
            code="missing",
        )
    with closing(bind_socket(task)) as probe:
        start_listening(task, probe)
    # with task.port=0 a user may start any number of servers, each a job of its own
    return ServeInputs({} if task.port else {"process": f"{os.getpid()} {time.time_ns()}"}, task, key)


def preview(inputs: ServeInputs, resolved: ResolvedJob) -> str:  # noqa: ARG001
    """Return notes on the adapters' memory, for plan=true."""
    return "\n".join(render_notes(build_adapter_memory_notes(resolved)))


def bind_socket(task: ServeConfig) -> socket.socket:
    """Bind a socket to the configured address. Raises ConfigError if binding fails."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            task.host, task.port, type=socket.SOCK_STREAM
        )[0]
    except (OSError, UnicodeError) as error:
        need = "this machine does not have this address. Use 127.0.0.1, or 0.0.0.0 for all addresses"
        raise ConfigError(need, key="task.host", value=task.host, code="bad_value") from error
    bound = socket.socket(family, kind, protocol)
    # a killed server leaves connections behind
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise _make_address_error(task, error) from error
    return bound


def start_listening(task: ServeConfig, bound_socket: socket.socket) -> None:
    """Start listening on a bound socket. Raises ConfigError if another program uses the address."""
    try:
        bound_socket.listen(BACKLOG)
    except OSError as error:
        raise _make_address_error(task, error) from error


def _make_address_error(task: ServeConfig, error: OSError) -> ConfigError:
    if error.errno == errno.EADDRNOTAVAIL:
        return ConfigError(
            "this machine does not have this address. Use 127.0.0.1, or 0.0.0.0 for all addresses",
            key="task.host",
            value=task.host,
            code="bad_value",
        )
    fix = "End the program that uses this port, or set another task.port (0: any free port)"
    return ConfigError(
        f"{error.strerror} at {task.host}. {fix}", key="task.port", value=task.port, code="busy"
    )


def run(inputs: ServeInputs, context: TaskContext) -> Result:
    """Load the engine, serve clients until a signal arrives, and return totals over all requests."""
    task, config = inputs.task, context.config
    with closing(
        bind_socket(task)
    ) as bound:  # before the load, so that no other program takes the port meanwhile
        machine.limit_kernel_caches(KERNELS)
        engine = context.engine
        with context.recorder.create_progress_bar(None, "serve: loading"):
            report = engine.load()
        from runner.options.serve.server import Server  # imports FastAPI, which no other job needs

        machine.reset_peak_rss()
        contention = machine.Contention()
        with Driver(engine, config.generation.batch_size) as driver:
            driver.wait_until_loaded()
            template = get_model_kind(config.model).chat_template(context.resolved)
            server, stats = Server(config, task, driver, report, template), engine.stats
            key_variable = KEY if inputs.key else None
            port = bound.getsockname()[1]
            line = format_start_message(
                make_served_model_name(config, task),
                config.lora.adapter_names,
                task.host,
                port,
                key_variable,
                stats.max_kept_bytes / MIB,
            )
            start_listening(task, bound)
            with signals.redirect_signals(server.stop):
                started = time.perf_counter()
                with suppress_heartbeat():
                    server.run(bound, inputs.key, lambda: print_message(line))
                served_s = time.perf_counter() - started
        if driver.failure is not None:
            raise driver.failure
    metrics = {
        "served_s": served_s,
        "prefill_tok_per_s": stats.prefill_tok_per_s,
        "decode_tok_per_s": stats.decode_tok_per_s,
        "shared_prompt_tokens": stats.shared_tokens,
        "draft_tokens": stats.draft_tokens,
        "accepted_tokens": stats.accepted_tokens,
        "peak_rss_mib": machine.peak_rss_mib(),
    }
    metrics |= report.metrics | server.counters.job_metrics(stats) | stats.multiprocess_engine_metrics
    facts = report.facts | {
        "measured": contention.describe_competing_load(),
        "machine": machine.describe_hardware(),
    }
    return Result(
        metrics,
        facts=facts,
        notes=render_engine_notes(stats, report),
        tables=stats.build_tables(report.parts),
    )
