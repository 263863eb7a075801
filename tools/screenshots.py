"""The screenshots on the pages: `python -m tools.screenshots WHAT PICTURE`, in a run's folder.

serve: the page of a server of its own, with two questions and the settings open. mlflow: MLflow's
view of the demo's jobs side by side, from outputs/demo. mlflow_table: its table of them.
mlflow_evidence: a model with its data set and metrics, and one trace. All need Chromium.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tools.check_docs import ROOT

sys.path.insert(0, str(ROOT / "tests" / "support"))  # the tests' drivers of browser and servers

from chromium import browser
from PIL import Image
from serving import serving

from runner.tracking import run_table

QUESTIONS = (
    "Ann has 3 apples. Ann buys 4 more. Then Ann gives away 2 apples. How many apples does Ann have now?",
    "Tom has 8 pens. Tom buys 5 more. How many pens does Tom have now?",
)
FORM = "\nSolve it step by step. End with '#### ' and the number."
DEMO = "sqlite:///outputs/demo/mlflow.db"
BESIDE = """() => {  // where the part of MLflow's page that compares begins and ends
  let part = [...document.querySelectorAll("*")].filter(one => /^Comparing \\d+ Runs/.test(one.innerText)).at(-1);
  while (part.parentElement.getBoundingClientRect().left > 0) part = part.parentElement;
  const {left, right} = part.getBoundingClientRect();
  return [Math.floor(left), Math.ceil(right)];
}"""
WHAT_DIFFERS = """() => {  // without what all jobs have in common, so that parameters and metrics are both in sight
  [...document.querySelectorAll("[role=button]")].find(one => one.innerText === "Run details").click();
  for (const part of ["Parameters", "Metrics"])
    document.querySelector(`button[aria-label="${part} - Show diff only"]`).click();
}"""
SERVER_S = 120


def serve(picture: Path, folder: Path) -> None:
    """Ask the page of a server two questions, open its settings, and save a picture."""
    with serving(folder, "tracking=none") as server, browser(folder, "--window-size=900,920") as page:
        page.go(server.url + "/")
        page.do("document.querySelector('details').open = true")
        for number, question in enumerate(QUESTIONS, 1):
            page.do("document.querySelector('#text').focus()")
            page.type(question + FORM)
            page.press_enter()
            page.until(f"document.querySelectorAll('.assistant').length === {number}")
            page.until("document.querySelector('#stop').disabled")
        page.picture(picture)


def mlflow(picture: Path, folder: Path) -> None:
    """Save MLflow's view of all jobs of the demo, which are below one run."""
    from mlflow import MlflowClient

    client = MlflowClient(DEMO)
    experiment = client.get_experiment_by_name("runner")
    assert experiment is not None, "the demo has not been run here"
    runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"])
    jobs = [run.info.run_id for run in runs if "accuracy" in run.data.metrics]
    where = f"#/compare-runs?runs={json.dumps(jobs)}&experiments={json.dumps([experiment.experiment_id])}"
    with _mlflow_ui() as url, browser(folder, "--window-size=1600,1560") as page:
        page.go(url + "/" + where.replace(" ", "").replace('"', "%22"))
        # only the first metrics are drawn
        page.until("document.body.innerText.includes('accuracy_high')", SERVER_S)
        page.do(f"({WHAT_DIFFERS})()")
        time.sleep(2)  # its plot grows
        page.picture(picture)
        left, right = page.do(f"({BESIDE})()")
    with Image.open(picture) as image:  # without the parts beside it
        shown = image.crop((left, 0, right, image.height))
    shown.save(picture)


def mlflow_table(picture: Path, folder: Path) -> None:
    """Save MLflow's table of the demo's jobs, as the address that a grid prints opens it."""
    from mlflow import MlflowClient

    experiment = MlflowClient(DEMO).get_experiment_by_name("runner")
    assert experiment is not None, "the demo has not been run here"
    place = run_table.build_run_table_view_url("", experiment.experiment_id).removeprefix(run_table.LOCAL)
    with _mlflow_ui() as url, browser(folder, "--window-size=1900,660") as page:
        page.go(url + place)
        page.until("document.body.innerText.includes('matching runs')", SERVER_S)
        page.until("document.body.innerText.includes('decode_tok_per_s')", SERVER_S)
        time.sleep(2)  # its columns take their places
        page.picture(picture)
    with Image.open(picture) as image:
        shown = image.crop((0, 0, 1410, image.height))  # without MLflow's assistant
    shown.quantize(128).save(picture, optimize=True)


def mlflow_evidence(picture: Path, folder: Path) -> None:
    """Run a job with traces, and save MLflow's pages of its model and of one trace, one below the
    other."""
    from mlflow import MlflowClient

    job = (
        "quantization=int8",
        "task.limit=20",
        "tracking.traces=true",
        "print=json",
        "output_dir=outputs/demo",
    )
    done = subprocess.run([sys.executable, "-m", "runner", *job], check=True, capture_output=True, text=True)
    client = MlflowClient(DEMO)
    run = client.get_run(json.loads(done.stdout.splitlines()[-1])["mlflow_run_id"])
    assert run.inputs is not None
    experiment = run.info.experiment_id
    trace = client.search_traces(locations=[experiment], run_id=run.info.run_id, max_results=1)[
        0
    ].info.trace_id
    places = {
        f"models/{run.inputs.model_inputs[0].model_id}": "decode_tok_per_s",
        f"traces?selectedEvaluationId={trace}": "verdict",
    }
    shown = []
    with _mlflow_ui() as url, browser(folder, "--window-size=1500,1100") as page:
        for place, word in places.items():
            # another address: only the part behind # differs
            page.go(f"{url}/?{word}#/experiments/{experiment}/{place}")
            page.until(f"document.body.innerText.includes('{word}')", SERVER_S)
            time.sleep(3)
            page.picture(picture)
            with Image.open(picture) as image:
                image.load()
                shown.append(
                    image.crop((0, 0, 1110, image.height) if "trace" not in place else (0, 0, 1050, 880))
                )
    whole = Image.new("RGB", (1110, sum(part.height for part in shown)), "white")
    whole.paste(shown[0], (0, 0))
    whole.paste(shown[1], (0, shown[0].height))
    whole.quantize(128).save(picture, optimize=True)


@contextlib.contextmanager
def _mlflow_ui() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["mlflow", "ui", "--backend-store-uri", DEMO, "--port", str(port), "--workers", "1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url, end = f"http://127.0.0.1:{port}", time.monotonic() + SERVER_S
        while not _answers(url):
            assert process.poll() is None, "MLflow's server does not start"
            assert time.monotonic() < end, "MLflow's server does not answer"
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5):
            return True
    except OSError:
        return False


def main() -> None:
    """Save the picture that is named."""
    what, picture = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        {"serve": serve, "mlflow": mlflow, "mlflow_table": mlflow_table, "mlflow_evidence": mlflow_evidence}[
            what
        ](Path(picture).resolve(), Path(folder))


if __name__ == "__main__":
    main()
