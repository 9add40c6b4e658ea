"""Signs that a text tries to give orders to the model: reported as flags, never acted upon.

A flag proves nothing: documentation about prompts is full of such phrases. What protects the answer is that passages
are fenced off as data (``prompts``), that every marker is checked (``citations``), and that the model has no tools.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.types import Flag

EXCERPT_CHARS = 80


@dataclass(frozen=True, slots=True)
class Rule:
    """One sign. ``pattern`` is searched only where one of ``needles`` occurs: most texts are cleared by them alone.

    Both see the text folded (:func:`fold`); a rule on ``raw`` text sees it as it is.
    """

    name: str
    why: str
    needles: tuple[str, ...]
    pattern: re.Pattern[str]
    raw: bool = False


def _phrases(*alternatives: str) -> re.Pattern[str]:
    """In an alternative a blank is any single white space, and ``…`` stands for up to three words.

    All repetitions are bounded, so that a search takes time linear in the text.
    """
    pattern = "|".join(alternatives).replace(" … ", r" (?:[^\W\d_]{1,14} ){0,3}?").replace(" ", r"\s")
    return re.compile(pattern, re.MULTILINE)


RULES: tuple[Rule, ...] = (
    Rule(
        "override-instructions",
        "Sets aside what the model was told before.",
        needles=(
            *("ignor", "disregard", "forget", "override", "bypass"),
            *("vergiss", "missacht", "oubli", "olvida", "descarta"),
            *("忽略", "无视", "無視"),
        ),
        pattern=_phrases(
            r"\b(?:ignore|disregard|forget|override|bypass) … (?:previous|prior|above|earlier|preceding|initial"
            r"|original|system|your) (?:\w{1,14} )?(?:instructions?|prompts?|rules?|directions?|guidelines?|context)\b",
            r"\b(?:ignore|disregard|forget) (?:everything|anything|all)(?: that was| that is)? (?:above|before|said|you"
            r" (?:were|have been|are) (?:told|instructed))\b",
            r"\b(?:ignorier|vergiss|missacht)\w{0,3} … (?:bisherig|vorherig|obig|vorig|früher)\w{0,2} "
            r"(?:anweisung|instruktion|vorgabe|regel|befehl)\w{0,3}\b",
            r"\b(?:ignor|oubli)(?:e|ez|er) … (?:instructions?|consignes?|règles?) (?:précédent|antérieur|ci-dessus)",
            r"\b(?:ignor[ae]|olvida|descarta) … (?:instrucciones|reglas|indicaciones|órdenes) (?:anteriores|previas)",
            r"(?:忽略|无视|無視)[^。\n]{0,12}(?:指令|指示|提示)",
        ),
    ),
    Rule(
        "new-instructions",
        "Announces orders of its own.",
        needles=("new instruction", "updated instruction", "your new", "from now on", "ab jetzt", "ab sofort"),
        pattern=_phrases(
            r"\byour new (?:instructions?|orders?|task|objective|role|system prompt) (?:is|are)\b",
            r"^\W{0,4}(?:new|updated) (?:system )?instructions? ?:",
            r"\bfrom now on,? you (?:will|must|are|shall) (?:only|always|never|be|act|answer|respond|reply|an?)\b",
            r"\bab (?:jetzt|sofort) (?:bist|musst|wirst|sollst) du\b",
        ),
    ),
    Rule(
        "reveal-prompt",
        "Wants to read what the model was told.",
        needles=("prompt", "your instructions", "your initial", "your original", "your hidden", "system message"),
        pattern=_phrases(
            r"\b(?:reveal|show|print|repeat|output|display|leak|tell|give|dump|recite) … your (?:\w{1,14} )?"
            r"(?:system|hidden|initial|original|secret) (?:prompt|message|instructions)\b",
            r"\b(?:reveal|leak|dump|recite|repeat|print) … the (?:system|hidden|secret) (?:prompt|message)\b",
            r"\b(?:reveal|leak|dump|recite|repeat|print) (?:all )?(?:of )?your (?:instructions|prompt)\b",
            r"\bwhat (?:is|are|was|were) your (?:system prompt|(?:initial|original|hidden) (?:prompt|instructions))",
            r"\b(?:zeig|nenn|verrat|gib)\w{0,3} (?:mir )?(?:deine|die|den|deinen) system-? ?prompt",
            r"\b(?:montre|révèle|affiche)\w{0,3}(?:-moi)? (?:ton|votre|le) prompt système",
            r"\b(?:muestra|revela|dime)\w{0,3} (?:tu|el|su) prompt (?:del |de )?sistema",
        ),
    ),
    Rule(
        "role-play",
        "Gives the model another character, one without rules.",
        needles=("you are now", " mode", "anything now", "you have no", "you had no", "du bist jetzt", "du bist nun"),
        pattern=_phrases(
            r"\byou are now (?:an? )?(?:dan\b|jailbroken|unrestricted|unfiltered|uncensored|evil|free (?:from|of)"
            r"|in (?:developer|debug|god|admin) mode|(?:\w{1,14} ){0,2}(?:without|with no|that has no) (?:\w{1,14} )?"
            r"(?:restrictions|rules|filters?|limits))",
            r"\b(?:enable|enter|activate|switch to) (?:god|jailbreak|dan|sudo) mode\b",
            r"\bdo anything now\b",
            r"\b(?:act|behave|respond|pretend|answer) (?:as if|as though|like) you (?:have|had) no (?:restrictions"
            r"|rules|guidelines|limits|filters?)\b",
            r"\bdu bist (?:jetzt|nun) (?:dan\b|ein\w{0,2} uneingeschränkt)",
        ),
    ),
    Rule(
        "fake-role-marker",
        "Imitates the separators between the roles of a conversation, or the fence around the passages.",
        needles=("<|", "inst]", "sys>>", "_of_turn>", "system", "assistant", "developer", "passage", "conversation"),
        pattern=_phrases(
            r"<\|(?:im_start|im_end|im_sep|system|user|assistant|endoftext|eot_id|start_header_id|end_header_id)\|>",
            r"\[/?inst\]|<</?sys>>|</?(?:start|end)_of_turn>",
            r"^ ?(?:#{1,4} ?)?\[?(?:system|assistant|developer)\]?(?: (?:prompt|message|override))? ?: ?(?:you|ignore"
            r"|disregard|the user|override|new|from now|respond|do not|always|never|reply|answer)\b",
            r"</ ?(?:passages?|conversation) ?>",
        ),
    ),
    Rule(
        "hide-from-user",
        "Wants the reader kept in the dark, or sources left out.",
        needles=("the user", "the reader", "the human", "source", "citation", "cite"),
        pattern=_phrases(
            r"\b(?:do not|don.t|never|without) (?:tell|inform|alert)(?:ing)? the (?:user|reader|human)\b",
            r"\b(?:do not|don.t|never) (?:mention|reveal) … to the (?:user|reader|human)\b",
            r"\b(?:do not|don.t|never) (?:cite|mention|name|give|include) (?:any |the |your |this )?"
            r"(?:sources?|citations?|passages?|document)\b",
        ),
    ),
    Rule(
        "exfiltration",
        "Would carry words of the conversation to a stranger's server.",
        needles=("](http", "](//", "://", "@", "this url", "this address", "this server"),
        pattern=_phrases(
            r"!\[[^\]\[\n]{0,100}\]\((?:https?:)?//[^)\s?]{1,200}\?[^)\s]{0,100}=[^)\s]{0,100}(?:\{|%7b|\$|<|\[)",
            r"\b(?:send|post|forward|upload|transmit|exfiltrate|append|e-?mail) (?:\w{1,14} ){0,4}?(?:conversation"
            r"|chat history|system prompt|api keys?|passwords?|credentials|secrets) … to (?:https?://|[\w.+-]{1,64}@"
            r"|this (?:url|address|server))",
        ),
    ),
    Rule(
        "tool-call",
        "Imitates a call of a tool, or its result.",
        needles=("tool_", "function_", "<|python_tag", "invoke name="),
        pattern=_phrases(
            r"</?(?:\w{1,8}:)?(?:tool_calls?|function_calls?|tool_use|tool_result|function_results?)>",
            r"<(?:\w{1,8}:)?invoke name=",
            r"<\|(?:python_tag|tool_calls?|tool_calls_begin)\|>",
            r"\"(?:tool_calls|function_call)\" ?: ?[\[{]",
        ),
    ),
    Rule(
        "encoded-payload",
        "Hides its words from readers and filters.",
        needles=("base64", "base-64", "rot13", "rot-13", "hex", "encoded"),
        pattern=_phrases(
            r"\b(?:decode|decrypt|de-?obfuscate|interpret) (?:\w{1,14} ){0,3}?(?:base-?64|rot-?13|hex)\b"
            r"(?:\W{1,2}\w{1,14}){0,4}?\W{1,2}(?:and|then) (?:follow|execute|run|obey|do)\b",
            r"\b(?:follow|execute|obey|run) (?:\w{1,14} ){0,2}?(?:base-?64|rot-?13|encoded|hex)\b(?: \w{1,14})?? "
            r"(?:instructions?|commands?|message|text|payload)\b",
        ),
    ),
    Rule(
        "invisible-text",
        "Holds characters that a model reads and a person can't see, or that turn the direction of reading.",
        needles=(),
        pattern=re.compile(
            r"[\U000e0020-\U000e007e]{8}|[\u200b\u200c\u2060-\u2064\ufeff]{6}|[\u202d\u202e\u2066-\u2069]"
        ),
        raw=True,
    ),
)

_INVISIBLE = re.compile(r"[\u00ad\u200b-\u200f\u2060-\u2064\ufeff\U000e0000-\U000e007f]+")


def find_injections(text: str, where: str) -> tuple[Flag, ...]:
    """Flags of ``text``, one for each rule that it meets, at the first place; ``where`` names the text."""
    return tuple(_flags(text, where))


def fold(text: str) -> str:
    """Lower case, compatible forms made one (NFKC), invisible characters dropped, runs of white space shortened to one
    blank or line end, none at either end.
    """
    visible = text if text.isascii() else _INVISIBLE.sub("", unicodedata.normalize("NFKC", text))
    lines = (" ".join(line.split()) for line in visible.split("\n"))
    return "\n".join(line for line in lines if line).lower()


def _flags(text: str, where: str) -> Iterator[Flag]:
    folded = fold(text)
    for rule in RULES:
        if rule.raw:
            found = None if text.isascii() else rule.pattern.search(text)
        else:
            found = rule.pattern.search(folded) if any(needle in folded for needle in rule.needles) else None
        if found:
            yield Flag(rule=rule.name, where=where, excerpt=_excerpt(found[0]))


def _excerpt(found: str) -> str:
    """What was found, invisible characters spelled out so that a log shows them."""
    visible = "".join(char if char.isprintable() else f"\\u{{{ord(char):x}}}" for char in found[:EXCERPT_CHARS])
    return visible[:EXCERPT_CHARS]
