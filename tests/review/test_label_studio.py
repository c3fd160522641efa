"""Real Label Studio, started by our script on loopback: it shows a task as it should, in a real browser, and its export comes back."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading

import pytest
from reviewing import lines, manifest, read, review, tasks

from mede2_jax.data.records import Judgment
from mede2_jax.reasoning.rubric import ASPECTS

pytestmark = pytest.mark.slow
SCRIPT = "<script>document.title = 'gone'</script><img src=x onerror=\"document.title='gone'\">"


@contextlib.contextmanager
def label_studio(root, folder):
    """It runs while inside; gives the project's page."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {"LABEL_STUDIO_PORT": port, "LABEL_STUDIO_ANNOTATORS": "2"}
    command = ["bash", "launch/label_studio.sh", str(folder)]
    process = subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    said = []
    try:
        for line in process.stdout:
            said.append(line)
            if line.startswith("== review at "):
                break
        assert said and said[-1].startswith("== review at "), "".join(said) + log(folder)
        address = said[-1].removeprefix("== review at ").strip()
        threading.Thread(target=lambda: said.extend(process.stdout), daemon=True).start()  # a full pipe would stop it
        yield address, environment
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
    password, token = ((folder / ".label-studio" / name).read_text().strip() for name in ("password", "token"))
    assert not any(secret in "".join(said) + log(folder) for secret in (password, token)), "a secret was said"


def log(folder):
    path = folder / ".label-studio" / "log.txt"
    return path.read_text("utf-8", errors="replace") if path.exists() else ""


def logged_in(browser, page_address, folder):
    page = browser.new_context(viewport={"width": 1440, "height": 1100}).new_page()
    page.set_default_timeout(600_000)  # tells a hang from an answer
    page.goto(page_address.partition("/projects")[0] + "/user/login/")
    page.fill("input[name=email]", "reviewer@localhost")
    page.fill("input[name=password]", (folder / ".label-studio" / "password").read_text().strip())
    page.click("button[type=submit]")
    page.wait_for_url(lambda address: "/login" not in address)
    page.goto(page_address)
    return page


def answer(page, verdicts):
    """Chooses Yes or No for each criterion, by the order in which they stand, and submits."""
    for place, met in enumerate(verdicts):
        page.locator("input[type=radio]").nth(2 * place + (0 if met else 1)).check(force=True)
    with page.expect_response(lambda reply: "/annotations" in reply.url and reply.request.method == "POST") as reply:
        page.click("button[aria-label='Submit current annotation']")
    assert reply.value.ok, reply.value.text()


def test_what_people_say_in_it_comes_back(sample, tmp_path, label_studio_env, browser, pytestconfig):
    root, folder = pytestconfig.rootpath, tmp_path / "review"
    rows = [row for row in read(sample / "rollouts.jsonl") if len(row["images"]) == 2][:3]
    rows[0]["response"] += f" {SCRIPT} https://example.org/x"
    rollouts = lines(tmp_path / "rollouts.jsonl", rows)
    review("export", rollouts=rollouts, image_root=sample, out=folder)
    questions = {one["data"]["id"]: one["data"]["question"] for one in tasks(folder)}
    verdicts = {row["id"]: [place != number for place in range(5)] for number, row in enumerate(rows)}
    with label_studio(root, folder) as (address, environment):
        page = logged_in(browser, address, folder)
        seen = []
        for _ in rows:
            page.wait_for_selector("text=5. Reflection")
            page.wait_for_function("() => [...document.images].filter((image) => image.naturalWidth > 30).length >= 2")
            text = page.inner_text("body").replace("\n", " ")
            (row,) = [row for row in rows if row["response"] in text]
            assert row["id"] not in seen, "the same task again"
            seen.append(row["id"])
            assert all(line in text for line in questions[row["id"]].splitlines())
            if SCRIPT in row["response"]:
                assert SCRIPT in text and page.title() != "gone"
            answer(page, verdicts[row["id"]])
            page.goto(address)
        export = ["bash", "launch/label_studio.sh", str(folder), "export", str(tmp_path / "export.json")]
        done = subprocess.run(export, cwd=root, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0 and "3 annotations of 3 tasks" in done.stdout, done.stdout + done.stderr
        project = page.evaluate("() => fetch('/api/projects/1').then((reply) => reply.json())")
        assert project["maximum_annotations"] == 2, "each task is given to two people"
        page.context.close()
    review("import", rollouts=rollouts, image_root=sample, export=tmp_path / "export.json", out=tmp_path / "people.jsonl")
    found = {one["parents"][0]: Judgment.model_validate(one) for one in read(tmp_path / "people.jsonl")}
    assert {id: [one.verdicts[name] for name in ASPECTS] for id, one in found.items()} == verdicts
    assert manifest(tmp_path / "people.jsonl")["counts"] == {"annotations": 3, "reviews": 3, "responses": 3}
    # Started again it has what was said, and takes what is new.
    review("export", rollouts=sample / "rollouts.jsonl", limit=5, out=folder)
    with label_studio(root, folder) as (_, environment):
        done = subprocess.run(export, cwd=root, env=environment, capture_output=True, text=True, check=False)
        assert "3 annotations of 8 tasks" in done.stdout, done.stdout + done.stderr
    assert {one["data"]["id"] for one in json.loads((tmp_path / "export.json").read_text())} >= {one["data"]["id"] for one in tasks(folder)}


def test_a_port_that_is_in_use_is_told(tmp_path, sample, label_studio_env, pytestconfig):
    review("export", rollouts=sample / "rollouts.jsonl", limit=1, out=tmp_path / "review")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            ["bash", "launch/label_studio.sh", str(tmp_path / "review")],
            cwd=pytestconfig.rootpath,
            env=os.environ | {"LABEL_STUDIO_PORT": str(port)},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1 and f"port {port} is in use; set LABEL_STUDIO_PORT" in done.stderr
    assert not (tmp_path / "review" / ".label-studio").exists()
