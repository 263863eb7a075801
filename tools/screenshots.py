"""The screenshots on the pages: `python -m tools.screenshots serve|mlflow PICTURE`, in the folder of a run.

serve: the page of a server of its own, with two questions and the settings open. mlflow: MLflow's view of the demo's
jobs side by side, from outputs/demo. Needs Chromium.
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
    with _mlflow_ui() as url, browser(folder, "--window-size=1600,1515") as page:
        page.go(url + "/" + where.replace(" ", "").replace('"', "%22"))
        page.until("document.body.innerText.includes('decode_tok_per_s')", SERVER_S)
        time.sleep(2)  # its plot grows
        page.picture(picture)
        left, right = page.do(f"({BESIDE})()")
    with Image.open(picture) as image:  # without the parts beside it
        shown = image.crop((left, 0, right, image.height))
    shown.save(picture)


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
        {"serve": serve, "mlflow": mlflow}[what](Path(picture).resolve(), Path(folder))


if __name__ == "__main__":
    main()
