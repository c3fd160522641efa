"""A headless Chromium, for the page's tests and for measuring it."""

import contextlib
import os
import shutil
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
REQUIRED = "MEDE2_REQUIRE_BROWSER"
"""Set to 1, a test that needs a browser fails where there is none."""


def found():
    """Its executable; None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextlib.contextmanager
def launched():
    """A browser of its own, by Playwright."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found(), args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


def is_required():
    return os.environ.get(REQUIRED) == "1"


def opened(browser, folder, *, width=1440, height=900, script=True, scheme="light", faults=None, fragment=""):
    """A report's page, from disk and without a network, when its items are there; what the console says goes to `faults`."""
    context = browser.new_context(
        offline=True, viewport={"width": width, "height": height}, java_script_enabled=script, color_scheme=scheme
    )
    page = context.new_page()
    said = faults if faults is not None else []
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url) if not request.url.startswith(("file:", "data:")) else None)
    page.goto((Path(folder) / "index.html").resolve().as_uri() + fragment)
    if script:
        page.wait_for_selector("body[data-ready]")
        page.wait_for_selector("#item h3")
    return page
