"""Plugins: what fills a placeholder such as `{search}` in the prefix or suffix of a message.

A plugin is a function from the message to the text that takes the placeholder's place. It is opened by another
function, whose keyword arguments are what a user may set; a package offers one as an entry point, and the entry point's
name is the placeholder's:

    [project.entry-points."hanmo.plugins"]
    weather = "my_package:open_weather"

    def open_weather(*, city: str = "北京", timeout: float = 5.0) -> Callable[[str], str]: ...

    hanmo chat MODEL --plugin "weather city=上海" --prefix $'天气：{weather}\n'

It raises `HanmoError` for what its user can mend; the chat shows that line and goes on.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import re
import shlex
from collections.abc import Callable, Mapping, Sequence

from pydantic import ValidationError, validate_call

from hanmo.errors import HanmoError, nearest

Plugin = Callable[[str], str]
#: As a command line names them, or functions by name.
Plugins = Sequence[str] | Mapping[str, Plugin]

GROUP = "hanmo.plugins"
#: Those of our own, which are there without being installed.
BUILT_IN = {"search": "hanmo.serve.plugins.folder:open_search", "web": "hanmo.serve.plugins.web:open_web"}
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


def known_plugins() -> dict[str, importlib.metadata.EntryPoint]:
    """Every plugin that may be opened, by name; an installed one cannot take the name of one of ours."""
    found = {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}
    own = {name: importlib.metadata.EntryPoint(name, place, GROUP) for name, place in BUILT_IN.items()}
    return {**found, **own}


def open_plugins(asked: Sequence[str]) -> dict[str, Plugin]:
    """Open plugins as a command line names them.

    Args:
        asked: each "NAME OPTION=VALUE …", split as a shell does.

    Returns:
        The plugins by name.

    Raises:
        HanmoError: no such plugin or option, a value that is no good, or the plugin cannot be opened.
    """
    known, opened = known_plugins(), {}
    for text in asked:
        try:
            name, *words = shlex.split(text)
        except ValueError as error:
            raise HanmoError(f"plugin {text!r}: {error}; give NAME OPTION=VALUE …") from None
        if name not in known:
            raise HanmoError(f"plugin '{name}' is unknown{nearest(name, known)} (known: {', '.join(sorted(known))})")
        if name in opened:
            raise HanmoError(f"plugin '{name}' is named twice; a placeholder has one")
        if bad := [word for word in words if not word.partition("=")[1]]:
            raise HanmoError(f"plugin '{name}': '{bad[0]}' is no OPTION=VALUE")
        try:
            factory = known[name].load()
        except (ImportError, AttributeError) as error:
            raise HanmoError(f"plugin '{name}' cannot be loaded ({error})") from None
        opened[name] = _open(name, factory, dict(word.split("=", 1) for word in words))
    return opened


def _open(name: str, factory: Callable[..., Plugin], options: dict[str, str]) -> Plugin:
    known = list(inspect.signature(factory).parameters)
    for option in options:
        if option not in known:
            raise HanmoError(
                f"plugin '{name}': no option '{option}'{nearest(option, known)} (known: {', '.join(known) or 'none'})"
            )
    try:
        return validate_call(factory)(**options)  # "3" becomes the 3 that its signature asks for
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"].startswith("missing"):
            raise HanmoError(f"plugin '{name}': give it {first['loc'][0]}=…") from None
        raise HanmoError(f"plugin '{name}': {first['loc'][0]}: {first['msg']}") from None


class Frame:
    """What stands before and behind every message, its placeholders filled.

    Only `prefix` and `suffix` have placeholders: braces in a message, or in what a plugin gives, are text.

    Args:
        prefix, suffix: texts, in which `{NAME}` stands for what the plugin of that name gives.
        plugins: as for `open_plugins`, or functions by name.

    Attributes:
        settings: all that it depends on.

    Raises:
        HanmoError: a plugin without a placeholder, the placeholder of a plugin that was not opened, or a plugin that
            cannot be opened.
    """

    def __init__(self, prefix: str = "", suffix: str = "", plugins: Plugins = ()) -> None:
        self._prefix, self._suffix = prefix, suffix
        self._plugins = dict(plugins) if isinstance(plugins, Mapping) else open_plugins(plugins)
        self.settings = [prefix, suffix, sorted(plugins)]
        wanted = set(_PLACEHOLDER.findall(prefix + suffix))
        for name in self._plugins:
            if name not in wanted:
                raise HanmoError(f"plugin '{name}' has no place: put {{{name}}} into --prefix or --suffix")
        for name in sorted(wanted - set(self._plugins)):
            # Other words in braces are the user's own: a prompt may hold JSON.
            if name in known_plugins():
                raise HanmoError(
                    f'{{{name}}} stands in the prompt, but its plugin is not open: add --plugin "{name} …"'
                )

    @property
    def steady(self) -> bool:
        """Whether it is the same around every message."""
        return not self._plugins

    def around(self, message: str) -> tuple[str, str]:
        """What stands before a message and behind it.

        Raises:
            HanmoError: a plugin cannot fill its place.
        """
        filled = {name: _ask(name, plugin, message) for name, plugin in self._plugins.items()}

        def fill(text: str) -> str:
            return _PLACEHOLDER.sub(lambda hit: filled.get(hit[1], hit[0]), text)

        return fill(self._prefix), fill(self._suffix)

    def __call__(self, message: str) -> str:
        """The message with what stands around it."""
        before, behind = self.around(message)
        return before + message + behind


def _ask(name: str, plugin: Plugin, message: str) -> str:
    try:
        given = plugin(message)
    except HanmoError as error:
        raise HanmoError(f"plugin '{name}': {error}") from None
    except Exception as error:  # whatever a stranger's code raises must not end a conversation
        reason = " ".join(str(error).split())[:200]
        raise HanmoError(f"plugin '{name}' failed ({type(error).__name__}: {reason})") from error
    if not isinstance(given, str):
        raise HanmoError(f"plugin '{name}' gave {type(given).__name__} and not text")
    return given
