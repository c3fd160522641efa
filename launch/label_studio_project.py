"""A project of Label Studio's for a folder that `python -m mede2_jax.review export` wrote, and its export; Python's own library alone.

python launch/label_studio_project.py make FOLDER URL TOKEN_FILE           prints the project's address
python launch/label_studio_project.py export FOLDER URL TOKEN_FILE OUT     writes what people have said, as JSON
"""

import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

TITLE = "mede2_jax review"
WAIT = 300
"""Seconds for one request: a thousand tasks are imported in one."""


def main(what, folder, url, token_file, *out):
    """Does one of the two."""
    api = API(url, Path(token_file).read_text(encoding="utf-8").strip())
    folder = Path(folder).resolve()
    if what == "make":
        print(f"{url}/projects/{made(api, folder)}/data?labeling=1")
    elif what == "export":
        number = existing(api)
        if number is None:
            raise SystemExit(f"error: {url} has no project {TITLE!r}; bash launch/label_studio.sh {folder} makes it")
        tasks = exported(api, number)
        Path(*out).write_text(json.dumps(tasks, indent=1), encoding="utf-8")
        print(f"{sum(len(task['annotations']) for task in tasks)} annotations of {len(tasks)} tasks: {out[0]}")
    else:
        raise SystemExit(f"error: expected make or export, found {what!r}")


def made(api, folder):
    """The number of the project, which is made if it is not there; tasks that it has not are added."""
    tasks = json.loads((folder / "tasks.json").read_text(encoding="utf-8"))
    if (number := existing(api)) is None:
        number = begun(api, folder)
    api.call("PATCH", f"/api/projects/{number}", {"maximum_annotations": int(os.environ.get("LABEL_STUDIO_ANNOTATORS", "1"))})
    there = {named(task) for task in exported(api, number)}
    if new := [task for task in tasks if named(task) not in there]:
        api.call("POST", f"/api/projects/{number}/import", new)
    return number


def named(task):
    """Of what a task is, word for word."""
    return task["data"]["id"], task["data"]["of"]


def exported(api, number):
    """All tasks with what was said of them."""
    return api.call("GET", f"/api/projects/{number}/export?exportType=JSON&download_all_tasks=true")


def begun(api, folder):
    """The number of a new project."""
    labels = (folder / "labels.xml").read_text(encoding="utf-8")
    number = api.call("POST", "/api/projects", {"title": TITLE, "label_config": labels, "show_skip_button": True})["id"]
    if (folder / "images").is_dir():  # which files a reader of this project may see
        said = {"project": number, "path": str(folder / "images"), "title": "images", "use_blob_urls": True}
        api.call("POST", "/api/storages/localfiles", said)
    return number


def existing(api):
    """The number of the project; None: it is not there."""
    return next((one["id"] for one in api.call("GET", "/api/projects?page_size=1000")["results"] if one["title"] == TITLE), None)


class API:
    """Label Studio's, on this machine."""

    def __init__(self, url, token):
        self.url, self.headers = url, {"Authorization": f"Token {token}", "Content-Type": "application/json"}

    def call(self, method, path, body=None):
        """The JSON that comes back; an error of any kind ends the program with one line."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, method=method, data=data, headers=self.headers)
        try:
            with urllib.request.urlopen(request, timeout=WAIT) as reply:
                return json.loads(reply.read() or b"null")
        except urllib.error.HTTPError as error:
            raise SystemExit(
                f"error: Label Studio answers {error.code} to {method} {path.partition('?')[0]}: {error.read()[:300]!r}"
            ) from None
        except OSError as error:
            raise SystemExit(f"error: no answer from {self.url}: {error}; is Label Studio running?") from None


if __name__ == "__main__":
    main(*sys.argv[1:])
