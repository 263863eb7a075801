"""task=chat: a conversation in the terminal with the model that the groups describe.

Each turn is written to disk as a sample when it ends. The engine keeps its KV cache, so the next
turn computes only the new tokens. Lines from a pipe are turns, too.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runner.core import terminal
from runner.core.sides import answered_by
from runner.datasets.prompts import read_conversation
from runner.records.measured import Measured
from runner.render import chat
from runner.render.engine_notes import engine_notes
from runner.render.notes import note_text
from runner.scorers import cost_and_sides, count_completions
from runner.tasks import Context, Inputs, RunnerConfig, Uses, own_config, sample_of
from runner.tasks.chat.keys import ChatConfig
from runner_base import (
    ConfigError,
    FinishReason,
    Result,
    RunnerError,
    machine,
    plain,
    read_text,
    say,
    unknown,
    write_atomically,
)
from runner_base.notes import note
from runner_engine import (
    Capability,
    Completion,
    Engine,
    EngineStats,
    Event,
    Message,
    Request,
    Sampling,
    Session,
    gather,
    require,
)
from runner_engine.sessions import NoChatTemplate
from runner_engine.settings.sampling import PARAMETERS

VERSION = 1
USES = frozenset({Uses.weights, Uses.engine})
FROM_LEDGER = False

QUIT = ("quit", "exit", "/quit", "/exit")
LIMITS = ("max_new_tokens", "thinking_tokens")
SETTINGS = (*PARAMETERS, *LIMITS, "seed")
HISTORY = ".chat_history"  # in output_dir: the lines that the arrow keys bring back
PLAIN_STOP = ("\nUser:",)


@dataclass
class Opening(Inputs):
    """The messages that a conversation begins with."""

    task: ChatConfig
    messages: list[Message]


def prepare(config: RunnerConfig) -> Opening:
    """Read the conversation to continue, if one is given; every chat is a job of its own."""
    task = own_config(config, ChatConfig)
    messages = [] if task.load is None else _load(Path(task.load), f"task.load={task.load}")
    if task.system is not None:
        messages = [
            Message("system", task.system),
            *(message for message in messages if message.role != "system"),
        ]
    return Opening({"conversation": uuid.uuid4().hex}, task, messages)


def run(inputs: Opening, context: Context) -> Result:
    """Talk until the user quits."""
    contention = machine.Contention()
    machine.reset_peak()
    engine, recorder = context.engine, context.recorder
    require(engine.capabilities, "task=chat", [Capability.deltas])
    with recorder.progress(None, "loading"):
        report = engine.load()
    with (
        engine.open(batch_size=1) as session,
        terminal.reading(Path(context.config.output_dir).expanduser() / HISTORY) as read,
    ):
        talk = Chat(session, engine, context, inputs.messages)
        talk.talk(read)
    samples = [recorder.samples[index] for index in sorted(recorder.samples)]
    measured = Measured(report, engine.stats, machine.peak_rss_mib(), machine.name(), contention.describe())
    cancelled = sum(sample.answer.finish_reason is FinishReason.cancelled for sample in samples)
    metrics = (
        count_completions(samples) | {"cancelled": cancelled} | measured.metrics | cost_and_sides(samples)
    )
    models = answered_by(samples)
    facts = measured.facts | ({"answered_by": models} if models else {})
    if talk.assigned:  # the engine's own words are those of the generation group
        sampling = ", ".join(f"{key}={value}" for key, value in talk.assigned.items())
        facts |= {
            "sampling": "; ".join(filter(None, (facts.get("sampling"), f"by /set at the end {sampling}")))
        }
    notes = engine_notes(engine.stats, report) + talk.notes
    return Result(metrics, facts=facts, notes=notes, tables=measured.tables)


class Chat:
    """A conversation, and the commands that steer it."""

    def __init__(self, session: Session, engine: Engine, context: Context, messages: list[Message]) -> None:
        self.session, self.engine, self.recorder = session, engine, context.recorder
        self.messages = list(messages)
        self.sampling, self.limits = Sampling(), dict[str, Any]()
        self.generation, self.seed = context.config.generation, context.config.seed
        self.assigned: dict[str, Any] = {}  # by /set
        self.has_template = True
        self.notes: list[str] = []
        self.last: tuple[Completion, EngineStats] | None = None
        self.began = replace(engine.stats)
        self.turns = 0
        self.commands: dict[str, Callable[[str], None]] = {
            "/reset": self._reset,
            "/system": self._system,
            "/set": self._set,
            "/stats": self._stats,
            "/save": self._save,
            "/load": self._load,
            "/help": self._help,
        }

    def talk(self, read: Callable[[str], str]) -> None:
        """Take turns until the lines end."""
        say(chat.BEGINNING)
        with terminal.ctrl_c() as pressed:
            for line in terminal.lines_of(read, chat.HOW_TO_END):
                if line.strip() in QUIT:
                    return
                try:
                    if line.startswith("/"):
                        self._command(line)
                    else:
                        self._answer(line, pressed)
                except RunnerError as error:
                    self.session.check()
                    if not (
                        self.turns or line.startswith("/")
                    ):  # if the first turn fails, so will all others
                        raise
                    say(f"error: {error}")

    def _command(self, line: str) -> None:
        name, _, argument = line.partition(" ")
        if name not in self.commands:
            raise ConfigError(
                f"{unknown('command', name, self.commands)}. A message cannot begin with /",
                key=name,
                code="unknown_choice",
            )
        self.commands[name](argument.strip())

    def _answer(self, text: str, pressed: list[bool]) -> None:
        """Send a turn to the model, and print its answer as it comes; Ctrl-C ends the answer."""
        messages, before = [*self.messages, Message("user", text)], replace(self.engine.stats)
        self._submit(messages)
        pressed[:] = [False]
        completions: list[Completion] = []
        thoughts = terminal.Thoughts()

        def listen(events: list[Event]) -> None:
            for event in events:
                if isinstance(event, Completion):
                    completions.append(event)
                elif event.thinking:
                    thoughts.show(event.text)
                else:
                    thoughts.end()
                    print(plain(event.text), end="", flush=True)
            if pressed[0]:
                self.session.cancel(self.turns)

        try:
            gather(self.session, [], listen)
        finally:  # else the terminal would stay dimmed
            thoughts.end()
        [completion] = completions
        print(flush=True)
        pressed.clear()
        self.recorder.sample(replace(sample_of(completion), question=text))
        self.turns += 1
        if completion.error is not None:
            raise ConfigError(f"{completion.error} (/reset begins anew)", code="failed")
        answer, parts = completion.answer, completion.answer.parts
        if answer.finish_reason.is_cut_off:
            say(chat.cut_off_line(completion))
        thinking = parts.thinking if parts.has_thinking else None
        self.messages = [*messages, Message("assistant", parts.answer, thinking)]
        self.last = completion, self.engine.stats - before

    def _submit(self, messages: list[Message]) -> None:
        """Submit the next turn, in the model's chat template or, if it has none, as plain text."""
        request = Request(
            self.turns, tuple(messages), keep=True, sampling=self.sampling, deltas=True, **self.limits
        )
        if self.has_template:
            try:
                self.session.submit(request)
                return
            except NoChatTemplate:
                self.has_template = False
                self.notes.append(note_text(note("no_chat_template")))
                say(f"note: {self.notes[-1]}")
        names = {"user": "User: ", "assistant": "Assistant: ", "system": ""}
        turns = [f"{names[message.role]}{message.content}" for message in messages]
        self.session.submit(replace(request, prompt="\n".join([*turns, "Assistant:"]), stop=PLAIN_STOP))

    # ------------------------------------------------------------------------------------- commands

    def _reset(self, _: str) -> None:
        self.messages = [message for message in self.messages if message.role == "system"]

    def _system(self, text: str) -> None:
        own = [Message("system", text)] if text else []
        self.messages = [*own, *(message for message in self.messages if message.role != "system")]

    def _set(self, assignment: str) -> None:
        key, _, value = assignment.removeprefix("generation.").partition("=")
        if assignment:
            if key not in SETTINGS:
                raise ConfigError(
                    unknown("setting", key, SETTINGS), key=f"/set {assignment}", code="unknown_choice"
                )
            try:
                number: Any = PARAMETERS[key].read(value) if key in PARAMETERS else int(value)
            except ValueError as error:
                raise ConfigError(
                    f"{value or 'nothing'} is not a number", key=f"/set {assignment}", code="bad_value"
                ) from error
            limits = {key: number} if key in LIMITS else {}
            try:
                sampling = self.sampling if limits else replace(self.sampling, **{key: number})
                needs = Request(0, "", sampling=sampling, **limits).needs
            except ConfigError as error:  # names the setting as the user typed it
                raise ConfigError(
                    str(error).partition(": ")[2], key=f"/set {assignment}", code=error.code
                ) from error
            require(self.engine.capabilities, f"/set {assignment}", needs)
            self.sampling, self.limits = sampling, self.limits | limits
            self.assigned[key] = number
        limits = {name: getattr(self.generation, name, None) for name in LIMITS} | self.limits
        settings = vars(self.sampling.over(self.generation, self.seed)) | limits
        say("  ".join(f"{name}={settings[name]}" for name in SETTINGS if settings[name] is not None))

    def _stats(self, _: str) -> None:
        if self.last is None:
            say(chat.NO_TURN)
            return
        completion, spent = self.last
        if completion.answer.new_tokens is not None:  # a server elsewhere
            say(chat.turn_elsewhere(completion))
            return
        say(chat.turn_here(completion, spent, self.engine.stats - self.began, self.turns))

    def _save(self, name: str) -> None:
        path = _named(name, "/save")
        if path.exists():
            _load(path, f"/save {name}: the file exists, and")  # only a conversation is replaced
        data = {"messages": [message.as_dict() for message in self.messages]}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(data, ensure_ascii=False, indent=2) + "\n", "/save", durable=True)
        say(chat.saved_line(len(self.messages), path))

    def _load(self, name: str) -> None:
        self.messages = _load(_named(name, "/load"), f"/load {name}")
        say(chat.loaded_line(len(self.messages)))

    def _help(self, _: str) -> None:
        for name, explanation in chat.help_lines(SETTINGS).items():
            say(f"{name:8} {explanation}")


def _named(name: str, command: str) -> Path:
    if not name:
        raise ConfigError(f"{command} needs a file: {command} FILE", code="missing")
    return Path(name).expanduser()


def _load(path: Path, key: str) -> list[Message]:
    """Read a saved conversation."""
    try:
        return list(read_conversation(read_text(path.expanduser(), key)))
    except ValueError as error:
        raise ConfigError(f"{path} is not a conversation: {error}", key=key, code="damaged") from error
