"""task=chat: a conversation in the terminal with the configured model.

Each turn is written to disk as a sample when it ends. The engine keeps its KV cache, so the
next turn computes only the new tokens. Lines from a pipe are turns too.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runner.core import terminal
from runner.core.answer_sources import describe_answering_models
from runner.datasets.prompts import parse_conversation
from runner.records.engine_measurements import EngineMeasurements
from runner.render import chat
from runner.render.engine_notes import render_engine_notes
from runner.render.notes import format_note
from runner.scorers import cost_and_model_metrics, count_completions_by_outcome
from runner.tasks import (
    RunnerConfig,
    TaskContext,
    TaskInputs,
    Uses,
    build_sample_from_completions,
    typed_task_config,
)
from runner.tasks.chat.keys import ChatConfig
from runner_base import (
    ConfigError,
    FinishReason,
    Result,
    RunnerError,
    escape_control_characters,
    format_unknown_choice_message,
    machine,
    print_message,
    read_text,
    write_text_atomically,
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
    require_capabilities,
    run_requests,
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
class InitialMessages(TaskInputs):
    """The messages with which a conversation starts: none, or those of a saved conversation."""

    task: ChatConfig
    messages: list[Message]


def prepare(config: RunnerConfig) -> InitialMessages:
    """Read the saved conversation that task.load names. Every chat gets its own job id."""
    task = typed_task_config(config, ChatConfig)
    messages = (
        [] if task.load is None else _read_saved_conversation(Path(task.load), f"task.load={task.load}")
    )
    if task.system is not None:
        messages = [
            Message("system", task.system),
            *(message for message in messages if message.role != "system"),
        ]
    return InitialMessages({"conversation": uuid.uuid4().hex}, task, messages)


def run(inputs: InitialMessages, context: TaskContext) -> Result:
    """Run the conversation until the user quits."""
    contention = machine.Contention()
    machine.reset_peak_rss()
    engine, recorder = context.engine, context.recorder
    require_capabilities(engine.capabilities, "task=chat", [Capability.deltas])
    with recorder.create_progress_bar(None, "loading"):
        report = engine.load()
    with (
        engine.open(batch_size=1) as session,
        terminal.open_line_reader(Path(context.config.output_dir).expanduser() / HISTORY) as read,
    ):
        talk = Chat(session, engine, context, inputs.messages)
        talk.run_conversation(read)
    samples = [recorder.samples[index] for index in sorted(recorder.samples)]
    measured = EngineMeasurements(
        report,
        engine.stats,
        machine.peak_rss_mib(),
        machine.describe_hardware(),
        contention.describe_competing_load(),
    )
    cancelled = sum(sample.answer.finish_reason is FinishReason.cancelled for sample in samples)
    metrics = (
        count_completions_by_outcome(samples)
        | {"cancelled": cancelled}
        | measured.metrics
        | cost_and_model_metrics(samples)
    )
    models = describe_answering_models(samples)
    facts = measured.facts | ({"answered_by": models} if models else {})
    if talk.assigned:  # the engine's own words are those of the generation group
        sampling = ", ".join(f"{key}={value}" for key, value in talk.assigned.items())
        facts |= {
            "sampling": "; ".join(filter(None, (facts.get("sampling"), f"by /set at the end {sampling}")))
        }
    notes = render_engine_notes(engine.stats, report) + talk.notes
    return Result(metrics, facts=facts, notes=notes, tables=measured.tables)


class Chat:
    """A conversation in the terminal, with slash commands."""

    def __init__(
        self, session: Session, engine: Engine, context: TaskContext, messages: list[Message]
    ) -> None:
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
            "/reset": self._reset_conversation,
            "/system": self._set_system_message,
            "/set": self._set_generation_parameter,
            "/stats": self._print_last_turn_stats,
            "/save": self._save_conversation,
            "/load": self._load_conversation,
            "/help": self._print_help,
        }

    def run_conversation(self, read_line: Callable[[str], str]) -> None:
        """Read user turns and print the model's answers until the input ends."""
        print_message(chat.BEGINNING)
        with terminal.record_ctrl_c() as pressed:
            for line in terminal.read_terminal_lines(read_line, chat.HOW_TO_END):
                if line.strip() in QUIT:
                    return
                try:
                    if line.startswith("/"):
                        self._run_slash_command(line)
                    else:
                        self._send_turn_and_stream_answer(line, pressed)
                except RunnerError as error:
                    self.session.check()
                    if not (
                        self.turns or line.startswith("/")
                    ):  # if the first turn fails, so will all others
                        raise
                    print_message(f"error: {error}")

    def _run_slash_command(self, line: str) -> None:
        name, _, argument = line.partition(" ")
        if name not in self.commands:
            raise ConfigError(
                f"{format_unknown_choice_message('command', name, self.commands)}. A message cannot begin with /",
                key=name,
                code="unknown_choice",
            )
        self.commands[name](argument.strip())

    def _send_turn_and_stream_answer(self, text: str, was_interrupted: list[bool]) -> None:
        """Send a user turn to the model and stream the answer to the terminal. Ctrl-C ends the answer."""
        messages, before = [*self.messages, Message("user", text)], replace(self.engine.stats)
        self._submit_chat_request(messages)
        was_interrupted[:] = [False]
        completions: list[Completion] = []
        thoughts = terminal.ThinkingPrinter()

        def on_events(events: list[Event]) -> None:
            for event in events:
                if isinstance(event, Completion):
                    completions.append(event)
                elif event.thinking:
                    thoughts.print_thinking_chunk(event.text)
                else:
                    thoughts.finish()
                    print(escape_control_characters(event.text), end="", flush=True)
            if was_interrupted[0]:
                self.session.cancel(self.turns)

        try:
            run_requests(self.session, [], on_events)
        finally:  # else the terminal would stay dimmed
            thoughts.finish()
        [completion] = completions
        print(flush=True)
        was_interrupted.clear()
        self.recorder.append_sample(replace(build_sample_from_completions(completion), question=text))
        self.turns += 1
        if completion.error is not None:
            raise ConfigError(f"{completion.error} (/reset begins anew)", code="failed")
        answer, parts = completion.answer, completion.answer.parts
        if answer.finish_reason.is_cut_off:
            print_message(chat.format_truncated_answer_line(completion))
        thinking = parts.thinking if parts.has_thinking else None
        self.messages = [*messages, Message("assistant", parts.answer, thinking)]
        self.last = completion, self.engine.stats - before

    def _submit_chat_request(self, messages: list[Message]) -> None:
        request = Request(
            self.turns, tuple(messages), keep=True, sampling=self.sampling, deltas=True, **self.limits
        )
        if self.has_template:
            try:
                self.session.submit(request)
                return
            except NoChatTemplate:
                self.has_template = False
                self.notes.append(format_note(note("no_chat_template")))
                print_message(f"note: {self.notes[-1]}")
        names = {"user": "User: ", "assistant": "Assistant: ", "system": ""}
        turns = [f"{names[message.role]}{message.content}" for message in messages]
        self.session.submit(replace(request, prompt="\n".join([*turns, "Assistant:"]), stop=PLAIN_STOP))

    # ------------------------------------------------------------------------------------- commands

    def _reset_conversation(self, _: str) -> None:
        self.messages = [message for message in self.messages if message.role == "system"]

    def _set_system_message(self, text: str) -> None:
        own = [Message("system", text)] if text else []
        self.messages = [*own, *(message for message in self.messages if message.role != "system")]

    def _set_generation_parameter(self, assignment: str) -> None:
        key, _, value = assignment.removeprefix("generation.").partition("=")
        if assignment:
            if key not in SETTINGS:
                raise ConfigError(
                    format_unknown_choice_message("setting", key, SETTINGS),
                    key=f"/set {assignment}",
                    code="unknown_choice",
                )
            try:
                number: Any = PARAMETERS[key].parse(value) if key in PARAMETERS else int(value)
            except ValueError as error:
                raise ConfigError(
                    f"expected a number, found {value or 'nothing'}",
                    key=f"/set {assignment}",
                    code="bad_value",
                ) from error
            limits = {key: number} if key in LIMITS else {}
            try:
                sampling = self.sampling if limits else replace(self.sampling, **{key: number})
                needs = Request(0, "", sampling=sampling, **limits).required_capabilities
            except ConfigError as error:  # names the setting as the user typed it
                raise ConfigError(
                    str(error).partition(": ")[2], key=f"/set {assignment}", code=error.code
                ) from error
            require_capabilities(self.engine.capabilities, f"/set {assignment}", needs)
            self.sampling, self.limits = sampling, self.limits | limits
            self.assigned[key] = number
        limits = {name: getattr(self.generation, name, None) for name in LIMITS} | self.limits
        settings = vars(self.sampling.fill_unset_sampling_parameters(self.generation, self.seed)) | limits
        print_message(
            "  ".join(f"{name}={settings[name]}" for name in SETTINGS if settings[name] is not None)
        )

    def _print_last_turn_stats(self, _: str) -> None:
        if self.last is None:
            print_message(chat.NO_TURN)
            return
        completion, spent = self.last
        if completion.answer.new_tokens is not None:  # a server elsewhere
            print_message(chat.format_server_turn_stats(completion))
            return
        print_message(
            chat.format_local_turn_stats(completion, spent, self.engine.stats - self.began, self.turns)
        )

    def _save_conversation(self, name: str) -> None:
        path = _require_path(name, "/save")
        if path.exists():
            # only a conversation is replaced
            _read_saved_conversation(path, f"/save {name}: the file exists, and")
        data = {"messages": [message.to_dict() for message in self.messages]}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(
            path, json.dumps(data, ensure_ascii=False, indent=2) + "\n", "/save", durable=True
        )
        print_message(chat.conversation_saved_message(len(self.messages), path))

    def _load_conversation(self, name: str) -> None:
        self.messages = _read_saved_conversation(_require_path(name, "/load"), f"/load {name}")
        print_message(chat.conversation_loaded_message(len(self.messages)))

    def _print_help(self, _: str) -> None:
        for name, explanation in chat.describe_chat_commands(SETTINGS).items():
            print_message(f"{name:8} {explanation}")


def _require_path(name: str, command: str) -> Path:
    if not name:
        raise ConfigError(f"{command} needs a file: {command} FILE", code="missing")
    return Path(name).expanduser()


def _read_saved_conversation(path: Path, key: str) -> list[Message]:
    try:
        return list(parse_conversation(read_text(path.expanduser(), key)))
    except ValueError as error:
        raise ConfigError(f"{path} is not a saved conversation: {error}", key=key, code="damaged") from error
