"""MLflow stores for the comparison's tests: real databases on sqlite with job folders beside them,
filled by hand."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runner_base.result import Answer, FinishReason, Sample, Verdict

NONE = {"quantization.name": "none"}
INT8 = {"quantization.name": "int8", "quantization.threshold": "6.0"}
NF4 = {"quantization.name": "nf4", "quantization.double_quant": "true"}
CONFIG = {
    "model.name": "embedded",
    "model.cache_dir": "null",
    "lora.name": "none",
    "generation.temperature": "0.0",
    "task.name": "gsm8k",
    "task.split": "test",
    "task.extractor": "strict",
    "seed": "0",
    "print": "table",
    "tracking.name": "sqlite",
}


def marks(right: int, n: int, flips: int = 0) -> list[bool]:
    """Return n answers of which the first `right` are right, without the first `flips` of them."""
    return [flips <= index < right for index in range(n)]


class Store:
    """An MLflow database with job folders beside it, filled by hand."""

    def __init__(self, output_dir: Path) -> None:
        from mlflow import MlflowClient

        self.output_dir = output_dir
        self.client = MlflowClient(f"sqlite:///{output_dir}/mlflow.db")
        self.clock_ms = 1_700_000_000_000
        self.run_ids: list[str] = []  # of the jobs, the newest last
        self.files: dict[str, str] = {}  # the file of tests that logs into an experiment

    def belongs_to_this_file(self, experiment: str) -> None:
        """Refuse an experiment that another file of tests logs into, too: what it shows would
        depend on their order."""
        file = os.environ.get("PYTEST_CURRENT_TEST", "").partition("::")[0]
        first = self.files.setdefault(experiment, file)
        assert first == file, (
            f"{first} and {file} log into one experiment, {experiment!r}: give one of them another name"
        )

    def experiment(self, name: str) -> str:
        """Return the experiment's id; the experiment is created if there is none."""
        the_experiment = self.client.get_experiment_by_name(name)
        if the_experiment is not None:
            return str(the_experiment.experiment_id)
        return str(self.client.create_experiment(name, artifact_location=str(self.output_dir / "artifacts")))

    def grid(self, experiment: str, name: str, jobs: list[str]) -> str:
        """Log the parent run of a grid with the plan of its jobs; returns its id."""
        self.belongs_to_this_file(experiment)
        self.clock_ms += 1000
        tags = {"grid": name, "mlflow.runName": f"grid of {len(jobs)} jobs"}
        run = self.client.create_run(self.experiment(experiment), start_time=self.clock_ms, tags=tags)
        run_id: str = run.info.run_id
        self.client.log_dict(run_id, {"jobs": [{"job_id": job} for job in jobs]}, "plan.json")
        return run_id

    def artifacts(self, run_id: str, folder: str) -> set[str]:
        """Return the names of the artifacts in a folder of a run."""
        return {Path(item.path).name for item in self.client.list_artifacts(run_id, folder)}

    def job(
        self,
        experiment: str,
        job_id: str,
        config: dict[str, str],
        solved: list[bool] | None = None,
        *,
        status: str = "FINISHED",
        tags: dict[str, str] | None = None,
        metrics: dict[str, float] | None = None,
        questions: str = "question",
        gold: str = "42",
        prompts: str = "prompt",
        grid: str | None = None,
        repeats: list[dict[str, Any]] | None = None,
        numbers_asked: Sequence[int] | None = None,
        left_out: Sequence[int] = (),
        cut_off: Sequence[int] = (),
    ) -> Path:
        """Log one run like the runner; returns its job folder."""
        from mlflow.entities import Metric, Param, RunTag

        self.belongs_to_this_file(experiment)
        experiment_id = self.experiment(experiment)
        folder = self.output_dir / experiment / "jobs" / job_id
        folder.mkdir(parents=True, exist_ok=True)
        self.clock_ms += 1000
        run_id = self.client.create_run(experiment_id, start_time=self.clock_ms).info.run_id
        self.run_ids.append(run_id)
        params = {**CONFIG, "output_dir": str(folder.parent), **config}
        numbers = {
            "weight_mib": 12.5,
            "model_mib": 14.5,
            "peak_rss_mib": 900.0,
            "decode_tok_per_s": 321.0,
            **(metrics or {}),
        }
        if solved is not None:
            asked = list(range(len(solved)) if numbers_asked is None else numbers_asked)
            counted = [ok for index, ok in zip(asked, solved, strict=True) if index not in left_out]
            right, n = sum(counted), len(counted)
            numbers |= {"n_all": len(solved)} if left_out else {}
            numbers |= {
                "n": n,
                "correct": right,
                "accuracy": right / n,
                "wrong": n - right - len(cut_off),
                "no_answer": 0,
                "cut_off": len(cut_off),
                **(metrics or {}),
            }
            lines = [
                Sample(
                    Answer(
                        f"{job_id} thinks about {questions} {index}\n#### {gold if ok else 7}",
                        [1, 2],
                        FinishReason.stop,
                        extracted={"strict": gold if ok else "7", "flexible": "8"},
                        verdict=Verdict.cut_off
                        if index in cut_off
                        else Verdict.correct
                        if ok
                        else Verdict.wrong,
                    ),
                    index=index,
                    prompt_sha256=f"{prompts} {index}",
                    prompt_tokens=9,
                    seconds=0.5,
                    question=f"{questions} {index}",
                    gold=gold,
                    left_out=index in left_out,
                )
                for index, ok in zip(asked, solved, strict=True)
            ]
            samples = folder / "samples.jsonl"
            samples.write_text("".join(line.to_json() + "\n" for line in lines))
            self.client.log_artifact(run_id, str(samples))
        if repeats is not None:
            file = folder / "repeats.jsonl"
            file.write_text("".join(json.dumps(line) + "\n" for line in repeats))
            self.client.log_artifact(run_id, str(file))
        all_tags = {
            "job_id": job_id,
            "task": "gsm8k",
            "task_version": "1",
            "output_dir": str(folder),
            **({"mlflow.parentRunId": grid} if grid else {}),
            **(tags or {}),
        }
        self.client.log_batch(
            run_id,
            [Metric(key, value, self.clock_ms, 0) for key, value in numbers.items()],
            [Param(key, value) for key, value in params.items()],
            [RunTag(key, value) for key, value in all_tags.items()],
        )
        self.client.set_terminated(run_id, status, end_time=self.clock_ms + 500)
        return folder
