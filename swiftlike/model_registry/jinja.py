"""Our chat formats as Jinja templates, for servers that render prompts themselves.

The text is that of `render.segments`: a test holds the two equal for every card.
"""

from __future__ import annotations

import re

from swiftlike.model_registry.card import TemplateCard, VisionCard

_PLACE = re.compile(r"\{(query|system|answer)\}")
_PICTURE = "\0"  # stands for a picture while contents are joined

# Contents that come as a list of parts become one text.
_FLATTEN = """\
{%- set ns = namespace(turns=[], rounds=[], results=[], text='', content='') -%}
{%- for message in messages -%}
  {%- if message['content'] is none or message['content'] is undefined -%}
    {%- set ns.content = '' -%}
  {%- elif message['content'] is string -%}
    {%- set ns.content = message['content'] -%}
  {%- else -%}
    {%- set ns.content = '' -%}
    {%- for part in message['content'] -%}
      {%- if part is string -%}
        {%- set ns.content = ns.content ~ part -%}
      {%- elif part['type'] == 'text' -%}
        {%- set ns.content = ns.content ~ part['text'] -%}
      {%- elif part['type'] in ('image', 'image_url') -%}
        {%- set ns.content = ns.content ~ PICTURE -%}
      {%- else -%}
        {{- raise_exception('this model takes no ' ~ part['type']) -}}
      {%- endif -%}
    {%- endfor -%}
  {%- endif -%}
  {%- set pieces = ns.content.split(PICTURE) -%}
  {%- set ns.content = pieces[0] -%}
  {%- for piece in pieces[1:] -%}
    {%- set ns.content = ns.content ~ SHOWN ~ ('' if piece.startswith(AFTER) else AFTER) ~ piece -%}
  {%- endfor -%}
  {%- set ns.turns = ns.turns + [dict(message, content=ns.content)] -%}
{%- endfor -%}
"""

# A checkpoint's own template, with the system message that the run gives it.
_OWN = """\
{%- if SYSTEM and (not ns.turns or ns.turns[0]['role'] != 'system') -%}
  {%- set ns.turns = [{'role': 'system', 'content': SYSTEM}] + ns.turns -%}
{%- endif -%}
{%- set messages = ns.turns -%}
"""

_ROUNDS = """\
{%- if ns.turns and ns.turns[0]['role'] == 'system' -%}
  {%- set system, turns = ns.turns[0]['content'], ns.turns[1:] -%}
{%- else -%}
  {%- set system, turns = SYSTEM, ns.turns -%}
{%- endif -%}
{%- set system = SYSTEM_TEXT -%}
{%- if system and not TAKES_SYSTEM -%}
  {{- raise_exception('this format has no place for a system message') -}}
{%- endif -%}
{%- for turn in turns -%}
  {%- set opened = ns.rounds and not ns.rounds[-1]['answered'] -%}
  {%- if turn['role'] == 'user' -%}
    {%- if opened -%}
      {{- raise_exception('two user messages follow each other without an answer between them') -}}
    {%- endif -%}
    {%- set ns.rounds = ns.rounds + [{'query': USER_TEXT, 'answered': false}] -%}
  {%- elif turn['role'] == 'assistant' -%}
    {%- if not opened -%}
      {{- raise_exception('an assistant message has no user message before it') -}}
    {%- endif -%}
    {%- set done = {'query': ns.rounds[-1]['query'], 'answered': true, 'answer': ASSISTANT_TEXT} -%}
    {%- set ns.rounds = ns.rounds[:-1] + [done] -%}
    {%- set ns.results = [] -%}
  {%- elif turn['role'] == 'tool' and TAKES_TOOLS -%}
    {%- if opened and not ns.results -%}
      {{- raise_exception('a tool result follows a user message without an answer between them') -}}
    {%- endif -%}
    {%- set ns.results = ns.results + [TOOL] -%}
    {%- set shown = {'query': ns.results | join('\\n'), 'answered': false} -%}
    {%- set ns.rounds = (ns.rounds[:-1] if opened else ns.rounds) + [shown] -%}
  {%- else -%}
    {{- raise_exception('this format has no place for a ' ~ turn['role'] ~ ' message here') -}}
  {%- endif -%}
{%- endfor -%}
{%- if not ns.rounds -%}
  {{- raise_exception('there is no user message') -}}
{%- endif -%}
{%- if ns.rounds[-1]['answered'] and add_generation_prompt -%}
  {{- raise_exception('the last message must be the user\\'s') -}}
{%- endif -%}
{%- if MOST and ns.rounds | length > MOST -%}
  {{- raise_exception('this format is for a single question and answer') -}}
{%- endif -%}
"""

_TEXT = """\
{%- set ns.text = BOS -%}
{%- if HAS_BLOCK and (system or ALWAYS) -%}
  {%- set ns.text = ns.text ~ SYSTEM_BLOCK -%}
{%- endif -%}
{%- for round in ns.rounds -%}
  {%- set query = round['query'] -%}
  {%- if system and INSIDE and (loop.last if IN_LAST else loop.first) -%}
    {%- set ns.text = ns.text ~ SYSTEM_USER -%}
  {%- else -%}
    {%- set ns.text = ns.text ~ USER -%}
  {%- endif -%}
  {%- if round['answered'] -%}
    {%- set answer = round['answer'] -%}
    {%- if THOUGHT and not loop.last and '</think>' in answer -%}
      {%- set answer = answer.split('</think>')[-1].lstrip('\\n') -%}
    {%- elif THOUGHT and loop.last and '</think>' not in answer -%}
      {%- set answer = THOUGHT ~ answer.lstrip('\\n') -%}
    {%- endif -%}
    {%- set ns.text = ns.text ~ ANSWER ~ (STOP if loop.last else STOP ~ BETWEEN) -%}
  {%- endif -%}
{%- endfor -%}
{%- if MOVES_SPACE and add_generation_prompt and ns.text.endswith(' ') -%}
  {%- set ns.text = ns.text[:-1] -%}
{%- endif -%}
{{- ns.text -}}
"""

_NAMES = re.compile(r"\b[A-Z][A-Z_]{2,}\b")


def template(card: TemplateCard, *, bos: str, system: str | None = None, vision: VisionCard | None = None) -> str:
    """A Jinja template that writes what `render.segments` writes, behind the first token where the card has one.

    `card` is bound (`render.bind`), `bos` the first token's text, `system` the text for conversations without a system
    message (None: the card's default). Pictures are parts of a message's content; each becomes the family's picture
    text, as an `<image>` tag does in training.
    """
    default = card.default_system if system is None else system
    values = {
        **_pictures(vision),
        "SYSTEM": _quoted(default),
        "SYSTEM_TEXT": _stripped("system", "system", card),
        "USER_TEXT": _stripped("turn['content']", "user", card),
        "ASSISTANT_TEXT": _stripped("turn['content']", "assistant", card),
        "TAKES_SYSTEM": _truth(bool(card.system or card.system_in_user)),
        "TAKES_TOOLS": _truth(bool(card.tool)),
        "TOOL": _filled(card.tool, query="turn['content']"),
        "MOST": str(card.rounds),
        "BOS": _quoted(bos if card.bos else ""),
        "HAS_BLOCK": _truth(bool(card.system)),
        "ALWAYS": _truth(card.system_always),
        "SYSTEM_BLOCK": _filled(card.system, system="system"),
        "INSIDE": _truth(bool(card.system_in_user)),
        "IN_LAST": _truth(card.system_in_last),
        "SYSTEM_USER": _filled(card.system_in_user, query="query", system="system"),
        "USER": _filled(card.user, query="query"),
        "THOUGHT": _quoted(card.thought),
        "ANSWER": _filled(card.answer, answer="answer"),
        "STOP": _quoted(card.stop),
        "BETWEEN": _quoted(card.between),
        "MOVES_SPACE": _truth(card.moves_space),
    }
    return _put(_FLATTEN + _ROUNDS + _TEXT, values)


def around(own: str, *, system: str = "", vision: VisionCard | None = None) -> str:
    """A checkpoint's own template, given what training gives it: contents that are one text with the family's picture
    text in it, and `system` as the system message where there is none."""
    return _put(_FLATTEN + _OWN, {**_pictures(vision), "SYSTEM": _quoted(system)}) + own


def _pictures(vision: VisionCard | None) -> dict[str, str]:
    shown = (vision.unexpanded or vision.image_text) if vision else ""
    return {"PICTURE": _quoted(_PICTURE), "SHOWN": _quoted(shown), "AFTER": _quoted(vision.after if vision else "")}


def _put(text: str, values: dict[str, str]) -> str:
    """All names replaced in one pass, so that a value that holds one stays as it is."""
    return _NAMES.sub(lambda found: values[found[0]], text)


def _filled(text: str, **names: str) -> str:
    """An expression that joins the literal parts of a format string and what stands in its places."""
    pieces = _PLACE.split(text)
    parts = [
        names[piece] if i % 2 and piece in names else _quoted("{" + piece + "}" if i % 2 else piece)
        for i, piece in enumerate(pieces)
        if i % 2 or piece
    ]
    return f"({' ~ '.join(parts) or _quoted('')})"


def _stripped(name: str, role: str, card: TemplateCard) -> str:
    return f"{name}.strip()" if role in card.strip else name


def _quoted(text: str) -> str:
    """A Jinja string literal."""
    escaped = text.encode("unicode_escape").decode("ascii").replace("'", "\\'")
    return f"'{escaped}'"


def _truth(value: bool) -> str:
    return "true" if value else "false"
