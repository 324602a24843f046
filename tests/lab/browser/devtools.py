"""Chromium by its DevTools protocol: one tab, and what is looked at in it."""

import base64
import json
import os
import pathlib
import subprocess
import time
import urllib.request

import websocket

PATIENCE = 60


class Browser:
    """A browser of its own, which trusts one certificate and finds some names here."""

    def __init__(self, home, certificate, names):
        database = home / ".pki/nssdb"
        database.mkdir(parents=True)
        nss = ["certutil", "-d", f"sql:{database}"]
        subprocess.run([*nss, "-N", "--empty-password"], check=True)
        trust = ["-A", "-n", "sluice", "-t", "P,,", "-i", str(certificate)]
        subprocess.run([*nss, *trust], check=True)
        rules = ", ".join(f"MAP {name} 127.0.0.1" for name in names)
        profile = home / "profile"
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
                 "--remote-debugging-port=0", f"--user-data-dir={profile}",
                 f"--host-resolver-rules={rules}", "--window-size=900,1100", "about:blank"]
        environment = {**os.environ, "HOME": str(home)}
        self.log = open(home / "chromium.log", "wb")
        self.process = subprocess.Popen(["chromium", *flags], env=environment,
                                        stdout=self.log, stderr=self.log, start_new_session=True)
        ready = profile / "DevToolsActivePort"
        until(lambda: ready.exists() and "\n" in ready.read_text(), "the browser to start")
        port = ready.read_text().split()[0]
        listed = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list"))
        page = next(target for target in listed if target["type"] == "page")
        self.socket = websocket.create_connection(page["webSocketDebuggerUrl"], timeout=PATIENCE,
                                                  suppress_origin=True)
        self.last = 0
        self.events = []
        for domain in ["Page", "Runtime", "Log", "WebAuthn", "Accessibility"]:
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        """Sends a command and returns its result; events that come meanwhile are kept."""
        self.last += 1
        self.socket.send(json.dumps({"id": self.last, "method": method, "params": params}))
        while True:
            told = json.loads(self.socket.recv())
            if told.get("id") == self.last:
                if "error" in told:
                    raise RuntimeError(f"{method}: {told['error']}")
                return told["result"]
            self.events.append(told)

    def js(self, script):
        """What a script in the page says."""
        told = self.call("Runtime.evaluate", expression=script, awaitPromise=True,
                         returnByValue=True, userGesture=True)
        if "exceptionDetails" in told:
            raise RuntimeError(f"{script}: {told['exceptionDetails']}")
        return told["result"].get("value")

    def open(self, url):
        told = self.call("Page.navigate", url=url)
        assert "errorText" not in told, told
        self.until(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")

    def until(self, script, what=None):
        until(lambda: self.js(script), what or script, lambda: self.js("document.body.innerText"))

    def picture(self, path):
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        pathlib.Path(path).write_bytes(base64.b64decode(shot["data"]))

    def close(self):
        try:
            self.call("Browser.close")
        except Exception:  # It may be gone already.
            pass
        self.socket.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, 9)
            self.process.wait()
        self.log.close()


def until(true, what, shown=lambda: ""):
    """Waits for something to become true."""
    end = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > end:
            raise AssertionError(f"waited for {what} in vain; there is: {shown()}")
        time.sleep(0.05)
