"""The console in a browser: a signed-in page that remembers every fault it saw."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client
from playwright.sync_api import ConsoleMessage, Page, Response

PASSWORD = "correct horse battery staple"
WIDE = {"width": 1440, "height": 900}
PHONE = {"width": 390, "height": 844}


def make_operator(name: str = "operator") -> User:
    """Somebody who may do everything."""
    return User.objects.create_superuser(name, f"{name}@example.com", PASSWORD)


@dataclass
class Console:
    """A page with its origin; ``faults`` holds console errors, CSP violations and bad answers."""

    page: Page
    origin: str
    faults: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Listen from the first request on."""
        self.page.set_default_timeout(8000)
        self.page.set_viewport_size({"width": WIDE["width"], "height": WIDE["height"]})
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.faults.append(f"script: {error}"))
        self.page.on("response", self._look_at)
        self.page.on("dialog", lambda dialog: self.faults.append(f"dialog: {dialog.message}"))

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.faults.append(f"{message.type}: {message.text}")

    def _look_at(self, response: Response) -> None:
        if response.status >= 400:
            self.faults.append(f"{response.status} {response.url}")

    def sign_in(self, user: User) -> None:
        """Take over a session without the form."""
        client = Client()
        client.force_login(user)
        name = settings.SESSION_COOKIE_NAME
        cookie = {"name": name, "value": client.cookies[name].value, "url": self.origin}
        self.page.context.add_cookies([cookie])  # type: ignore[list-item]  # a plain dict fits

    def use(self, *, theme: Literal["light", "dark"] = "light", phone: bool = False) -> None:
        """Choose colours and width for the pages opened from now on."""
        size = PHONE if phone else WIDE
        self.page.set_viewport_size({"width": size["width"], "height": size["height"]})
        self.page.add_init_script(f"localStorage.setItem('adminTheme', '\"{theme}\"')")

    def open(self, path: str) -> None:
        """Load a page and wait until it is quiet."""
        self.page.goto(self.origin + path)
        self.page.wait_for_load_state("networkidle")

    def overflow_px(self) -> int:
        """How many pixels the page is wider than the screen."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - innerWidth"))
