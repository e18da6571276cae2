"""A headless Chromium, driven over its DevTools protocol: pages are used as a person does."""

import base64
import json
import shutil
import subprocess
import time
from pathlib import Path

import httpx
from websockets.sync.client import connect

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
WAIT_S, POLL_S = 60.0, 0.1

# The first visible element with a text that contains no other one: its children have it as well.
_FIND = """(text, selector) => {
  const shown = [...document.querySelectorAll(selector)].filter(e => {
    const box = e.getBoundingClientRect();
    const said = (e.innerText || e.getAttribute("aria-label") || e.placeholder || "").trim();
    return box.width && box.height && (text === null || said === text);
  });
  return shown.find(e => !shown.some(other => other !== e && e.contains(other)));
}"""


def chromium() -> str | None:
    """Return the path of a Chromium, or None."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


class Browser:
    """One page of a new Chromium without the profile of a person; a context manager."""

    def __init__(self, folder: Path, width: int = 1400, height: int = 900) -> None:
        self._folder, self._last_id = folder, 0
        self._process = subprocess.Popen(
            [
                chromium() or PROGRAMS[0],
                "--headless=new",
                "--no-sandbox",  # tests run as root in containers
                "--disable-gpu",
                "--disable-background-networking",
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
                "--no-proxy-server",
                "--no-first-run",
                "--remote-debugging-port=0",
                f"--user-data-dir={folder}",
                f"--window-size={width},{height}",
                "about:blank",
            ],
            stdout=subprocess.DEVNULL,
            stderr=(folder / "chromium.log").open("wb"),
        )
        try:
            port_file = folder / "DevToolsActivePort"
            self.until(lambda: port_file.exists() and port_file.read_text().count("\n"), "a port")
            port = port_file.read_text().split("\n")[0]
            pages = httpx.get(f"http://127.0.0.1:{port}/json", trust_env=False).json()
            address = next(p["webSocketDebuggerUrl"] for p in pages if p["type"] == "page")
            self._socket = connect(address, max_size=None, proxy=None)
            metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
            self.call("Emulation.setDeviceMetricsOverride", **metrics)
            self.call("Page.enable")
            # MLflow's assistant opens at the first visit and covers a third of the page.
            closed = "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"
            self.call("Page.addScriptToEvaluateOnNewDocument", source=closed)
        except BaseException:
            self._process.kill()
            raise

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self.call("Browser.close")
        self._socket.close()
        self._process.wait(30)

    def call(self, method: str, **parameters: object) -> dict:
        """Call a method of the protocol and return its result; events are passed over."""
        self._last_id += 1
        message = {"id": self._last_id, "method": method, "params": parameters}
        self._socket.send(json.dumps(message))
        while True:
            answer = json.loads(self._socket.recv(timeout=WAIT_S))
            if answer.get("id") == self._last_id:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def run(self, script: str) -> object:
        """Return the value of an expression in the page."""
        result = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in result, f"{script}: {result['exceptionDetails']}"
        return result["result"].get("value")

    def open(self, address: str) -> None:
        """Go to an address; the page may still be loading."""
        self.call("Page.navigate", url="about:blank")  # else a changed fragment reloads nothing
        self.call("Page.navigate", url=address)

    def text(self) -> str:
        """Return the text of the page."""
        return str(self.run("document.body ? document.body.innerText : ''"))

    def wait(self, *texts: str, seconds: float = WAIT_S) -> None:
        """Wait until the page shows all of these texts."""
        self.until(lambda: all(text in self.text() for text in texts), f"{texts}", seconds)

    def click(self, text: str | None = None, selector: str = "*") -> None:
        """Click the element with exactly this text (or label) once it is there and at rest."""
        find = f"""(() => {{
          const e = ({_FIND})({json.dumps(text)}, {json.dumps(selector)});
          if (!e) return null;
          e.scrollIntoView({{block: "center"}});
          const box = e.getBoundingClientRect();
          const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
          const top = document.elementFromPoint(x, y);  // another one while a part fades in
          return top && (e.contains(top) || top.contains(e)) ? [x, y] : null;
        }})()"""
        places: list = [None]

        def rests() -> bool:
            places.append(self.run(find))
            return places[-1] is not None and places[-1] == places[-2]

        self.until(rests, f"element {selector} {text!r}")
        x, y = places[-1]
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def fill(self, selector: str, value: str) -> None:
        """Put a value into an input in place of what it has: as typed, or as a date picker does."""
        self.click(selector=selector)
        date = self.run("document.activeElement.type") == "date"
        self.run("document.activeElement.select()")
        if not date:
            self.call("Input.insertText", text=value)
            return
        # React keeps the value itself, and notices only the setter of the class.
        self.run(f"""(() => {{
          const e = document.activeElement;
          Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set.call(e, {json.dumps(value)});
          e.dispatchEvent(new Event("input", {{bubbles: true}}));
        }})()""")

    def picture(self, path: Path) -> None:
        """Write a picture of what is shown."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def until(self, condition, what: str, seconds: float = WAIT_S) -> None:
        """Wait until a function, or an expression in the page, is true."""
        deadline = time.monotonic() + seconds
        while not (condition() if callable(condition) else self.run(condition)):
            if self._process.poll() is not None or time.monotonic() > deadline:
                log = (self._folder / "chromium.log").read_text(errors="replace")[-2000:]
                shown = self.text()[:3000] if hasattr(self, "_socket") else log
                raise AssertionError(f"no {what} after {seconds:.0f} s; the page shows:\n{shown}")
            time.sleep(POLL_S)
