"""Chat templates that try to escape their sandbox and touch the file MARKER."""

from __future__ import annotations

ROOTS = ("cycler", "joiner", "namespace", "lipsum", "dict", "range", "raise_exception",
         "strftime_now", "self", "messages", "tojson", "caller", "loop", "config")  # fmt: skip
WAYS = (
    ".__init__.__globals__.os.system('touch MARKER')",
    ".__globals__['os'].system('touch MARKER')",
    ".__class__.__mro__[-1].__subclasses__()",
    ".__class__.__base__.__subclasses__()[0]('MARKER', 'w')",
    ".__builtins__.open('MARKER', 'w')",
    ".__init__.__globals__.__builtins__['__import__']('os').mkdir('MARKER')",
    "['__class__']",
    "|attr('__class__')|attr('__mro__')",
    "|attr('__init__')|attr('__globals__')",
    ".gi_frame.f_back.f_globals",
    ".__func__.__globals__",
    ".__closure__",
)
OWN = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ ('{0.__class__.__init__.__globals__}' | attr('format'))(messages) }}",
    "{{ '{0.__class__}'.format(messages) }}",
    "{{ '%c' % messages.__class__ }}",
    "{{ messages | map(attribute='__class__') | list }}",
    "{{ messages | map('attr', '__class__') | list }}",
    "{{ [1] | sort(attribute='__class__') }}",
    "{{ messages | groupby('__class__') | list }}",
    "{% include '/etc/hostname' %}",
    "{% import '/etc/hostname' as stolen %}{{ stolen }}",
    "{% extends '/etc/hostname' %}",
    "{{ messages.append(messages[0]) }}",
    "{{ messages[0].update({'role': 'x'}) }}",
    "{% do messages.clear() %}",
    "{% set x = messages.__setattr__('a', 1) %}",
    "{{ (lipsum | attr('__globals__')).os.mkdir('MARKER') }}",
    "{{ dict(__class__=1).__class__ }}",
    "{{ ''['format_map']({'a': messages.__class__}) }}",
    "{% for c in [].__class__.__base__.__subclasses__() %}{{ c }}{% endfor %}",
)


def escapes(marker: object) -> list[str]:
    """All templates, with a given marker."""
    found = [f"{{{{ {root}{way} }}}}" for root in ROOTS for way in WAYS]
    return [text.replace("MARKER", str(marker)) for text in [*found, *OWN]]
