"""Which devices there are, remembered: the answer of ``list`` while nothing is known to have changed.

Rules:
  1. An answer is shown again for ``FRESH_S`` seconds at most, and not after the kernel has told of a device that came
     or went, nor after another configuration; how old it is stands beside it.
  2. Who asks while the helpers are being asked gets the same answer.
  3. Which device is in use is never remembered.

Source of facts: kismet-protocol.md, section 4.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from helperd.drivers import Drivers, Listing, list_devices

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from helperd.config.specs import Config
    from helperd.hotplug import Hotplug
    from helperd.launcher import Launcher

SOON_S: Final = 2.0
"""Seconds that a round may take before what was known is shown in its place: a slow helper is waited for once."""
FRESH_S: Final = 60.0
"""Seconds for which an answer is shown again, unless the one who asks wants another limit."""


class _Look:
    """One round of questions."""

    def __init__(self, config: Config, began: float) -> None:
        self.config = config
        self.began = began
        self.done = trio.Event()
        self.listing = Listing()
        self.error: Exception | None = None


class Inventory:
    """The devices of all helpers.

    Args:
        launcher: starts the helpers.
        config: gives the present configuration.
        drivers: learns who can list.
        hotplug: knows when a device last came or went.

    Attributes:
        looks: rounds of questions.
        nursery: where they are asked; to be set before the first.
    """

    def __init__(
        self, launcher: Launcher, config: Callable[[], Config], drivers: Drivers, hotplug: Hotplug
    ) -> None:
        self.looks = 0
        self._launcher = launcher
        self._config = config
        self._drivers = drivers
        self._hotplug = hotplug
        self._last: _Look | None = None
        self._known: _Look | None = None
        self.nursery: trio.Nursery | None = None

    async def devices(self, in_use: Mapping[str, str], max_age_s: float | None = None) -> dict[str, object]:
        """All devices, who could not say, and how old that is.

        Args:
            in_use: interface to the name of the running source that has it.
            max_age_s: how old it may be, in seconds; 0: ask now; None: ``FRESH_S``.

        Returns:
            The outputs of ``ListDevices``.
        """
        look = self._last
        if look is None or not self._holds(look, FRESH_S if max_age_s is None else max_age_s):
            assert self.nursery is not None
            look = self._last = _Look(self._config(), trio.current_time())
            self.nursery.start_soon(self._ask, look)
        await look.done.wait() if max_age_s is not None or not self._shows(look) else await self._soon(look)
        look = look if look.done.is_set() or self._known is None else self._known
        if look.error is not None:
            raise look.error
        answer = look.listing.as_dict(in_use)
        return {**answer, "age_s": trio.current_time() - look.began}

    def _holds(self, look: _Look, max_age_s: float) -> bool:
        """Whether a round answers a question of now; one that is under way always does."""
        if look.config is not self._config():
            return False
        if not look.done.is_set():
            return True
        old = trio.current_time() - look.began > max_age_s
        return look.error is None and not old and self._hotplug.moved_at < look.began

    def _shows(self, look: _Look) -> bool:
        """Whether what was known before a round may be shown in its place: nothing has changed that we know of."""
        known = self._known
        return known is not None and known.config is look.config and self._hotplug.moved_at < known.began

    async def _soon(self, look: _Look) -> None:
        with trio.move_on_after(SOON_S):
            await look.done.wait()

    async def _ask(self, look: _Look) -> None:
        assert self.nursery is not None
        self.looks += 1
        try:
            look.listing = await list_devices(
                self._launcher, look.config.helpers, self.nursery, programs=self._drivers.programs
            )
            self._drivers.learn_listing(look.config.helpers, look.listing)
        except Exception as error:  # noqa: BLE001 - handed to those who asked
            look.error = error
        else:
            self._known = look
        finally:
            look.done.set()
