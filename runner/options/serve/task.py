"""task=serve: the model of this job for many clients at once, until it is stopped.

Each start runs the job again and records its totals. Requests and answers are not logged.
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
from runner.engines.kinds import kind_of
from runner.options.serve.keys import ServeConfig
from runner.options.serve.name import check_names, served_name
from runner.options.serve.render.greeting import greeting
from runner.render.engine_notes import engine_notes
from runner.render.notes import render_notes
from runner.tasks.base import Context, Inputs, Uses, own_config
from runner.tasks.named_adapters import adapter_notes
from runner_base import ConfigError, Result, machine, say, signals, silent
from runner_base.addresses import is_loopback
from runner_engine import Driver

VERSION = 1
USES = frozenset({Uses.weights, Uses.engine})
FROM_LEDGER = False

KEY = "RUNNER_API_KEY"
KERNELS = 64  # kernels are cached by shape, and a server meets ever new numbers of tokens and rows
BACKLOG = 1024  # connections that may wait to be accepted


@dataclass
class Served(Inputs):
    """Where to listen, and the key that clients have to send."""

    task: ServeConfig
    key: str | None = field(repr=False)


def prepare(config: RunnerConfig) -> Served:
    """Read the key; reject an address that is taken, or one that others can reach without a key."""
    task = own_config(config, ServeConfig)
    check_names(config, task)
    key = os.environ.get(KEY, "").strip() or None
    if key is not None and not (key.isascii() and key.isprintable() and " " not in key):
        raise ConfigError(
            f"{KEY} (its value is not shown): a key is sent in a header: use ASCII letters, digits and signs only",
            code="bad_value",
        )
    if key is None and not is_loopback(task.host):
        raise ConfigError(
            f"others could use this server, so it needs a key: set {KEY} in the environment or "
            "in .env, and have clients send it; or serve this machine only: task.host=127.0.0.1",
            key="task.host",
            value=task.host,
            code="missing",
        )
    with closing(bound_to(task)) as probe:
        listen(task, probe)
    # with task.port=0 a user may start any number of servers, each a job of its own
    return Served({} if task.port else {"process": f"{os.getpid()} {time.time_ns()}"}, task, key)


def preview(inputs: Served, resolved: ResolvedJob) -> str:  # noqa: ARG001
    """Say for a plan what the adapters take."""
    return "\n".join(render_notes(adapter_notes(resolved)))


def bound_to(task: ServeConfig) -> socket.socket:
    """Return a socket that is bound to the address; ConfigError if that fails."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            task.host, task.port, type=socket.SOCK_STREAM
        )[0]
    except (OSError, UnicodeError) as error:
        need = "not an address of this machine: use 127.0.0.1, or 0.0.0.0 for all"
        raise ConfigError(need, key="task.host", value=task.host, code="bad_value") from error
    bound = socket.socket(family, kind, protocol)
    # a killed server leaves connections behind
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise _not_free(task, error) from error
    return bound


def listen(task: ServeConfig, bound: socket.socket) -> None:
    """Let clients connect; ConfigError if another program listens at the address."""
    try:
        bound.listen(BACKLOG)
    except OSError as error:
        raise _not_free(task, error) from error


def _not_free(task: ServeConfig, error: OSError) -> ConfigError:
    if error.errno == errno.EADDRNOTAVAIL:
        return ConfigError(
            "not an address of this machine: use 127.0.0.1, or 0.0.0.0 for all",
            key="task.host",
            value=task.host,
            code="bad_value",
        )
    fix = "stop the program that listens there, or give another port (0: any free one)"
    return ConfigError(
        f"{error.strerror} at {task.host}: {fix}", key="task.port", value=task.port, code="busy"
    )


def run(inputs: Served, context: Context) -> Result:
    """Load, serve until a signal comes, and return the totals."""
    task, config = inputs.task, context.config
    with closing(
        bound_to(task)
    ) as bound:  # before the load, so that no other program takes the port meanwhile
        machine.keep_kernels(KERNELS)
        engine = context.engine
        with context.recorder.progress(None, "serve: loading"):
            report = engine.load()
        from runner.options.serve.server import Server  # imports FastAPI, which no other job needs

        machine.reset_peak()
        contention = machine.Contention()
        with Driver(engine, config.generation.batch_size) as driver:
            driver.loaded()
            template = kind_of(config.model).chat_template(context.resolved)
            server, stats = Server(config, task, driver, report, template), engine.stats
            key_variable = KEY if inputs.key else None
            port = bound.getsockname()[1]
            line = greeting(served_name(config, task), config.lora.names, task.host, port, key_variable)
            listen(task, bound)
            with signals.redirected_to(server.stop):
                started = time.perf_counter()
                with silent():
                    server.run(bound, inputs.key, lambda: say(line))
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
    metrics |= report.metrics | server.counters.totals(stats) | stats.process_metrics
    facts = report.facts | {"measured": contention.describe(), "machine": machine.name()}
    return Result(metrics, facts=facts, notes=engine_notes(stats, report), tables=stats.tables(report.parts))
