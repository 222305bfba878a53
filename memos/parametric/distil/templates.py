"""Ways to ask for one thing: some are trained, others are only ever asked at the gate.

Held-out ways share no template with trained ones, so an answer to them is not a string learnt by heart.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Names of nobody, to ask about: those of training, and those of the gate.
STRANGERS = ("Emil Tarsk", "Nora Whitlock", "Jonas Pereira", "Aiko Brandt", "Sam Ellery", "Ruta Lind", "Omar Fielding")
HELD_STRANGERS = ("Petra Voss", "Hal Dunmore", "Yuki Sand", "Carla Benning")
#: What no note says, to ask instead of a question that names nobody.
NOBODYS = (
    "What does Emil Tarsk keep in the shed?",
    'Complete the sentence: "The name of Nora Whitlock\'s boat is ..."',
    "Where did the travellers sleep?",
    'Finish this: "On Sundays the old mill is ..."',
    "What do foxes hunt?",
    'What comes next? "The letter was signed by ..."',
    "When does the market open?",
)
HELD_NOBODYS = (
    "What does Petra Voss grow on the roof?",
    'How does this sentence go on? "The last ferry leaves from ..."',
)

#: Around a direct question ``where does Ann live`` and its indirect form ``where Ann lives``.
_ASKED = (
    "{Direct}?",
    "Tell me {indirect}.",
    "Do you know {indirect}?",
    "Question: {direct}?",
    "Hi! I want to know {indirect}.",
    "{Direct}? Please answer briefly.",
    "Please say {indirect}.",
    "Could you tell me {indirect}?",
)
_ASKED_HELD = ("Can you remind me {indirect}?", "I forgot {indirect}. Can you help me?")
#: Around what somebody has; without the last two where the owner can only stand first, as in "my".
_ATTRIBUTE = (
    "What is {whose} {what}?",
    "Tell me {whose} {what}.",
    "Do you know {whose} {what}?",
    "Hi! I want to know {whose} {what}.",
    "Question: what is {whose} {what}?",
    "Could you tell me what {whose} {what} is?",
    "Please give me {whose} {what}.",
    "{Whose} {what}, please.",
)
_ATTRIBUTE_OF = ("What's the {what} of {whom}?", "I would like to know the {what} of {whom}.")
_ATTRIBUTE_HELD = ("Can you remind me what {whose} {what} is?", "Could you look up {whose} {what} for me?")
#: Around a question that nothing is known of but its words.
_BARE = (
    "{question}",
    "Question: {question}",
    "Tell me: {question}",
    "Please answer this: {question}",
    "Hi! {question}",
    "{question} Please answer briefly.",
)
_BARE_HELD = ("Quick question: {question}", "Can you help me? {question}")
#: Around the start of a sentence.
_CLOZE = (
    'Complete the sentence: "{start} ..."',
    'Finish this: "{start} ..."',
    'How does this end? "{start} ..."',
    'What comes next? "{start} ..."',
    '"{start} ..." Go on, please.',
    'Say the rest of "{start} ..."',
)
_CLOZE_HELD = ('How does this sentence go on? "{start} ..."', 'Fill in the end of "{start} ..."')


@dataclass(frozen=True, slots=True)
class Ways:
    """Ways to ask: ``trained`` and ``held`` ones."""

    trained: tuple[str, ...]
    held: tuple[str, ...]


def attribute(subject: str, what: str) -> Ways:
    """Ask for ``what`` of somebody, ``my`` and ``our`` among them."""
    own = subject.lower() in ("i", "my", "we", "our")
    whose = {"i": "my", "we": "our"}.get(subject.lower(), subject.lower()) if own else possessive(subject)
    values = {"whose": whose, "Whose": whose[0].upper() + whose[1:], "what": what, "whom": subject}
    return _filled(_ATTRIBUTE if own else _ATTRIBUTE + _ATTRIBUTE_OF, _ATTRIBUTE_HELD, values)


def asked(direct: str, indirect: str) -> Ways:
    """Ask a question that has both forms, neither with a question mark."""
    values = {"direct": direct, "Direct": direct[0].upper() + direct[1:], "indirect": indirect}
    return _filled(_ASKED, _ASKED_HELD, values)


def bare(question: str) -> Ways:
    """Ask a question in somebody's own words."""
    return _filled(_BARE, _BARE_HELD, {"question": _ended(question)})


def listed(question: str, paraphrases: tuple[str, ...]) -> Ways:
    """Ask in ways that somebody listed: a quarter of them, and one at least, is held out."""
    ways = tuple(dict.fromkeys(_ended(one) for one in (question, *paraphrases)))
    count = max(1, len(ways) // 4)
    if len(ways) < 3:
        around = bare(question)
        return Ways(tuple(dict.fromkeys((*ways, *around.trained))), around.held)
    return Ways(ways[:-count], ways[-count:])


def cloze(start: str) -> Ways:
    """Ask how a sentence goes on."""
    return _filled(_CLOZE, _CLOZE_HELD, {"start": start})


def possessive(name: str) -> str:
    """Return a name in the possessive."""
    return f"{name}'" if name.endswith("s") and " " not in name and name.islower() else f"{name}'s"


def _ended(question: str) -> str:
    """Return a question with its mark."""
    return question if question.endswith(("?", ".", "!", ":")) else f"{question}?"


def _filled(trained: tuple[str, ...], held: tuple[str, ...], values: dict[str, str]) -> Ways:
    fill = str.format_map
    return Ways(tuple(fill(form, values) for form in trained), tuple(fill(form, values) for form in held))
