"""Engine that scores all choices of a question as one request.

It runs on top of the job's engine, which gets one request for each choice. All choices of a question are
submitted together, so that the engine reads their common prompt once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from runner.options.multiple_choice.questions import ChoiceQuestion
from runner.tasks import EngineWrapper
from runner_engine import Capability, Completion, Engine, Event, Request, RequestId, Session


def build_choice_requests(question: ChoiceQuestion, request_id: RequestId) -> list[Request]:
    """Return the requests that score the choices. Blanks at a prompt's end belong to the scored text, as
    in lm-eval.
    """
    requests = []
    for index, (context, text) in enumerate(zip(question.contexts, question.continuations, strict=True)):
        prompt = context.rstrip()
        blanks = context[len(prompt) :]
        requests.append(Request(f"{request_id}/{index}", prompt, continuation=blanks + text))
    return requests


class ChoiceScoringEngine(EngineWrapper):
    """Engine whose completions of a request are the scored choices of the question with its id."""

    def __init__(self, engine: Engine, questions: Mapping[int, ChoiceQuestion]) -> None:
        super().__init__(engine)
        self.questions = questions

    @property
    def capabilities(self) -> frozenset[Capability]:
        """Features of the job's engine. Several choices need none of them but log-probabilities."""
        return self.engine.capabilities | {Capability.several}

    def open(self, batch_size: int | None = None) -> ChoiceScoringSession:
        return ChoiceScoringSession(self, self.engine.open(batch_size))


class ChoiceScoringSession(Session):
    """Session that returns the completions of a question when its last choice is scored."""

    def __init__(self, engine: ChoiceScoringEngine, session: Session) -> None:
        super().__init__(engine.capabilities)
        self._session, self._questions = session, engine.questions
        self._choices: dict[RequestId, tuple[RequestId, int]] = {}  # by request: question and choice
        self._scored: dict[RequestId, list[Completion]] = {}  # of questions with choices under way

    def announce_prompts(self, requests: Sequence[Request]) -> None:
        self._session.announce_prompts([choice for request in requests for choice in self._expand(request)])

    def check(self) -> None:
        self._session.check()

    def cancel_and_collect(self) -> list[Completion]:
        """Cancel all questions. A question with some scored choices is asked again as a whole."""
        self._session.cancel_and_collect()
        return []

    def _expand(self, request: Request) -> list[Request]:
        return build_choice_requests(self._questions[int(request.id)], request.id)

    def _admit(self, request: Request) -> Request:
        choices = self._expand(request)
        self._choices |= {choice.id: (request.id, index) for index, choice in enumerate(choices)}
        self._session.submit_all(choices)
        return request

    def _run_step(self, submitted: list[Request], cancelled: set[RequestId]) -> list[Event]:
        for name, (question, _) in [*self._choices.items()]:
            if question in cancelled:
                self._session.cancel(name)
        events: list[Event] = []
        for event in self._session.step():
            if not isinstance(event, Completion):
                continue
            question, index = self._choices.pop(event.id)
            scored = self._scored.setdefault(question, [])
            scored.append(replace(event, id=question, choice=index))
            if len(scored) == len(self._questions[int(question)].choices):
                events += self._scored.pop(question)
        return events

    def _drop_requests(self) -> None:
        self._choices, self._scored = {}, {}
        self._session.close()
