"""Passkeys in a real browser: made, used beside a password and without, copied, at a wrong origin.

    passkeys.py SLUICE [PICTURES]
"""

import json
import os
import pathlib
import socket
import ssl
import subprocess
import sys
import tempfile
import urllib.request

from devtools import Browser

HOST = "sluice.example.org"
OTHER = "other.example.org"
PASSWORD = "a long enough password"


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Server:
    """`sluice server` in a folder, at the same port whenever it runs."""

    def __init__(self, sluice, state):
        self.sluice, self.state, self.port = sluice, state, free_port()
        self.url = f"https://{HOST}:{self.port}"

    def start(self, public_url):
        command = [self.sluice, "server", "--json", "--listen", f"127.0.0.1:{self.port}",
                   "--name", HOST, "--state", str(self.state), "--public-url", public_url]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        self.ready = json.loads(self.process.stdout.readline())

    def stop(self):
        self.process.terminate()
        self.process.wait()

    def post(self, path, body, token=None):
        """Asks the API, by a way of its own."""
        trusted = ssl.create_default_context(cafile=self.state / "certificate.pem")
        trusted.check_hostname = False
        request = urllib.request.Request(f"https://127.0.0.1:{self.port}/api/v1/{path}",
                                         data=None if body is None else json.dumps(body).encode())
        request.add_header("content-type", "application/json")
        if token:
            request.add_header("authorization", f"Bearer {token}")
        with urllib.request.urlopen(request, context=trusted) as answer:
            return json.loads(answer.read() or b"null")


class Page:
    """The page /account, as somebody uses it."""

    def __init__(self, browser, url):
        self.browser, self.url = browser, url

    def open(self):
        self.browser.open(f"{self.url}/account")
        self.shows("sign-in")

    def fill(self, **fields):
        for name, text in fields.items():
            name = json.dumps(name.replace("_", "-"))
            self.browser.js(f"document.getElementById({name}).value = {json.dumps(text)}")

    def click(self, selector):
        self.browser.js(f"document.querySelector({json.dumps(selector)}).click()")

    def shows(self, section):
        self.browser.until(f"!document.getElementById('{section}').hidden", f"{section} to show")

    def says(self, name, words):
        script = f"document.getElementById('{name}').innerText.includes({json.dumps(words)})"
        self.browser.until(script, f"{name}: {words}")

    def sign_in(self, then):
        self.fill(login="admin", password=PASSWORD)
        self.click("#password-form button")
        self.shows(then)

    def sign_out(self):
        self.click("#sign-out")
        self.shows("sign-in")

    def passwordless(self):
        self.click("#passwordless")


def authenticator(browser):
    options = {"protocol": "ctap2", "ctap2Version": "ctap2_1", "transport": "internal",
               "hasResidentKey": True, "hasUserVerification": True, "isUserVerified": True,
               "automaticPresenceSimulation": True}
    return browser.call("WebAuthn.addVirtualAuthenticator", options=options)["authenticatorId"]


def the_credential(browser, device):
    known = browser.call("WebAuthn.getCredentials", authenticatorId=device)["credentials"]
    assert len(known) == 1, known
    return known[0]


def set_counter(browser, device, counter):
    """Puts a copy of the passkey in its place, whose counter is another one."""
    copy = {**the_credential(browser, device), "signCount": counter}
    browser.call("WebAuthn.removeCredential", authenticatorId=device,
                 credentialId=copy["credentialId"])
    browser.call("WebAuthn.addCredential", authenticatorId=device, credential=copy)


def is_accessible(browser):
    """Whoever cannot see the page is told what each field and button is."""
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    for node in nodes:
        role = node.get("role", {}).get("value")
        if role in ("textbox", "button", "heading") and not node.get("ignored"):
            assert node.get("name", {}).get("value"), node


def make_and_use(page, device, picture):
    browser = page.browser
    page.open()
    assert browser.js("isSecureContext")
    picture("sign-in")
    is_accessible(browser)
    page.sign_in("account")
    page.says("none", "no passkey yet")
    page.fill(name="Laptop", add_password="not this one at all")
    page.click("#add-form button")
    page.says("problem", "The password is wrong")
    page.fill(add_password=PASSWORD)
    page.click("#add-form button")
    page.shows("codes")
    page.says("message", "Laptop is added")
    assert browser.js("document.querySelectorAll('#code-list li').length") == 10
    code = browser.js("document.querySelector('#code-list li').innerText")
    picture("made")
    is_accessible(browser)
    # The same device makes no second one.
    page.fill(name="Again", add_password=PASSWORD)
    page.click("#add-form button")
    page.says("problem", "has a passkey for you already")
    print("a passkey is made: ok")

    page.sign_out()
    page.sign_in("second")
    picture("second")
    page.click("#second-passkey")
    page.shows("account")
    page.says("passkeys", "last used")
    print("beside a password: ok")

    page.sign_out()
    page.passwordless()
    page.shows("account")
    page.says("who", "admin")
    print("without a password: ok")

    page.sign_out()
    browser.call("WebAuthn.setUserVerified", authenticatorId=device, isUserVerified=False)
    page.passwordless()
    page.says("problem", "No passkey was used")
    browser.call("WebAuthn.setUserVerified", authenticatorId=device, isUserVerified=True)
    print("nobody is verified, and nobody comes in: ok")
    return code


def copied(page, device, picture):
    browser = page.browser
    counter = the_credential(browser, device)["signCount"]
    assert counter > 1, "this authenticator counts"
    set_counter(browser, device, 0)
    page.passwordless()
    page.says("problem", "there is a copy of it")
    picture("copied")
    set_counter(browser, device, counter + 1)
    page.passwordless()
    page.shows("account")
    print("a copy is refused: ok")


def renamed_and_removed(page, code):
    page.says("passkeys", "Laptop")
    page.click("#passkeys button")
    page.fill(new_name="Old laptop")
    page.click("#rename-form button")
    page.says("passkeys", "Old laptop")
    for proof in [{"remove_code": "000000"}, {"remove_code": code}]:
        page.click("#passkeys button:last-child")
        page.fill(remove_password=PASSWORD, **proof)
        page.click("#remove-form button")
        if proof["remove_code"] == "000000":
            page.says("problem", "code is wrong")
    page.says("none", "no passkey yet")
    print("renamed, and removed with a code: ok")
    # The device has it still.
    page.sign_out()
    page.passwordless()
    page.says("problem", "does not know it")
    page.sign_in("account")
    print("what was removed opens nothing: ok")


def removed_by_itself(page, device):
    browser = page.browser
    browser.call("WebAuthn.clearCredentials", authenticatorId=device)
    page.fill(name="Second", add_password=PASSWORD)
    page.click("#add-form button")
    page.says("passkeys", "Second")
    page.click("#passkeys button:last-child")
    page.fill(remove_password=PASSWORD, remove_code="")
    page.click("#remove-form button")
    page.says("message", "removed")
    page.says("none", "no passkey yet")
    print("removed with the passkey itself: ok")


def by_command(page, server, device, folder):
    """What somebody with a passkey alone is told by the command line, and can do there."""
    browser = page.browser
    browser.call("WebAuthn.clearCredentials", authenticatorId=device)
    page.fill(name="Third", add_password=PASSWORD)
    page.click("#add-form button")
    page.says("passkeys", "Third")
    script = "[...document.querySelectorAll('#code-list li')].map((line) => line.innerText)"
    codes = browser.js(script)
    (folder / "password").write_text(PASSWORD)

    def run(*words, code=None):
        known = {**os.environ, "HOME": str(folder)}
        known["SLUICE_PASSWORD_FILE"] = str(folder / "password")
        if code:
            (folder / "code").write_text(code)
            known["SLUICE_CODE_FILE"] = str(folder / "code")
        return subprocess.run([server.sluice, "--json", *words], env=known, text=True,
                              capture_output=True, stdin=subprocess.DEVNULL, start_new_session=True)

    login = ["login", f"https://127.0.0.1:{server.port}", "--fingerprint",
             server.ready["fingerprint"], "--user", "admin"]
    told = run(*login)
    assert told.returncode == 1 and "sluice user totp enrol" in told.stdout, told
    assert run(*login, code=codes[0]).returncode == 0
    listed = json.loads(run("user", "passkey", "list").stdout)["items"]
    assert [one["name"] for one in listed] == ["Third"], listed
    assert run("user", "passkey", "rename", "Third", "Fourth").returncode == 0
    told = run("user", "passkey", "remove", "Third", code=codes[1])
    assert told.returncode == 1 and "no passkey Third" in told.stdout, told
    told = run("user", "passkey", "remove", "Fourth", code=codes[1])
    assert told.returncode == 0, told
    page.sign_out()
    page.sign_in("account")
    print("by command: ok")


def elsewhere(page, server, device):
    browser = page.browser
    browser.call("WebAuthn.clearCredentials", authenticatorId=device)
    page.fill(name="Fifth", add_password=PASSWORD)
    page.click("#add-form button")
    page.says("passkeys", "Fifth")
    page.sign_out()
    # The same host at another port: the browser shows the passkey, and the server sees from where.
    server.stop()
    server.start(f"https://{HOST}:{server.port + 1}")
    page.open()
    page.passwordless()
    page.says("problem", "another origin")
    # Another host: the browser itself refuses.
    server.stop()
    server.start(f"https://{OTHER}:{server.port}")
    page.open()
    page.passwordless()
    page.says("problem", "makes no passkeys at this address")
    print("at a wrong origin: ok")


def looks(browser, page, picture):
    """For people to look at: in the dark, and on a telephone."""
    page.open()
    media = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.call("Emulation.setEmulatedMedia", features=media)
    picture("dark")
    page.sign_in("second")
    browser.call("Emulation.setDeviceMetricsOverride", width=360, height=740,
                 deviceScaleFactor=2, mobile=True)
    wide = browser.js("document.documentElement.scrollWidth > innerWidth")
    picture("narrow")
    assert not wide, "the page is wider than a telephone"


def main():
    sluice, pictures = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        server = Server(sluice, folder / "state")
        server.start(server.url)
        browser = None
        try:
            token = pathlib.Path(server.ready["setup_token_file"]).read_text().strip()
            server.post("setup", {"token": token, "login": "admin", "password": PASSWORD})
            browser = Browser(folder, folder / "state/certificate.pem", [HOST, OTHER])

            def picture(name):
                if pictures:
                    pathlib.Path(pictures).mkdir(parents=True, exist_ok=True)
                    browser.picture(f"{pictures}/{name}.png")

            device, page = authenticator(browser), Page(browser, server.url)
            code = make_and_use(page, device, picture)
            copied(page, device, picture)
            renamed_and_removed(page, code)
            removed_by_itself(page, device)
            by_command(page, server, device, folder)
            elsewhere(page, server, device)
            looks(browser, page, picture)
            said = [str(event) for event in browser.events]
            refused = [event for event in said if "Content Security Policy" in event]
            assert not refused, refused
            assert not [event for event in said if "Runtime.exceptionThrown" in event], said
        finally:
            if browser:
                browser.close()
            server.stop()
    print("passkeys in a browser: all ok")


main()
