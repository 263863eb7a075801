"""A conversation and our own server record who answered; needs both options."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import warm_process
from api_standin import Api
from serving import serving


class Teacher(Api):
    """Answers `four`, and reviews with the given texts, one after another."""

    def __init__(self, *reviews: str) -> None:
        super().__init__(self.teach)
        self.reviews = list(reviews)

    def teach(self, body: dict[str, Any]) -> str:
        if self.is_review(body):
            return self.reviews.pop(0) if len(self.reviews) > 1 else self.reviews[0]
        return "four"

    def is_review(self, body: dict[str, Any]) -> bool:
        return "You are a teacher" in str(body.get("messages", [{}])[0].get("content"))


def good(score: float = 0.9) -> str:
    return f'{{"score": {score}, "feedback": "Well done."}}'


def bad(feedback: str = "Count again.") -> str:
    return f'{{"score": 0.2, "feedback": "{feedback}"}}'


@pytest.mark.slow
def test_a_conversation_and_a_server_record_who_answered(tmp_path: Path) -> None:
    with Teacher(good(), bad()) as teacher:
        model = [
            "model=hybrid",
            "model.student.stub=true",
            "model.teacher.name=tiny",
            "tracking=none",
            "print=json",
        ]
        model += [
            f"model.teacher.base_url={teacher.url}",
            "model.teacher.price_in=1",
            "model.teacher.price_out=1",
        ]
        command = [sys.executable, "-m", "runner", "task=chat", *model]
        done = warm_process.complete(command, b"Hi\nand then?\nquit\n", cwd=tmp_path)
        chat = json.loads(done.stdout.decode().splitlines()[-1])["metrics"]
        assert (chat["student_answers"], chat["teacher_answers"], chat["n"]) == (1, 1, 2)
        assert chat["teacher_calls"] == len(teacher.seen)
        assert chat["cost_usd"] > 0
        with serving(tmp_path / "served", *model) as server:
            for _ in range(2):
                status, _ = server.ask(
                    "/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}
                )
                assert status == 200
            server.stop()
            served = json.loads(server.out.splitlines()[-1])["metrics"]
    assert (served["student_answers"], served["teacher_answers"]) == (0, 2), "all later reviews are bad"
    assert served["teacher_calls"] == 6
    assert served["cost_usd"] > 0
