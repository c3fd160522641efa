"""Which of the options a text names, by letter, by text, or by both. Never a guess: what could be two, or contradicts itself, is none."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping

from mede2_jax.reasoning.normal_form import normalised
from mede2_jax.reasoning.plain import is_cjk, plain

Options = Mapping[str, str]
"""Capital letter to text."""
LONGEST = 8_000
"""Characters of a text that can be an answer."""
FIRST_LINES = 5
"""Of an answer, among which its letter may stand alone."""

_ADJECTIVES = r"(?:(?:most likely|final|correct|best|right|single) )*"
_STATEMENT = re.compile(
    rf"^(?:(?:so|thus|therefore|hence)\b,? )?(?:(?:the|my) )?{_ADJECTIVES}(?:answer|ans|diagnosis|choice|option)"
    r"(?: is\b|\.(?= )|(?<=ans)\.| ?[:=]| ?[–-](?! ?[.,]?\d)| [–-] | (?=[–-][.,]?\d)) ?:? ?",
    re.IGNORECASE,
)
"""What may stand before the answer itself, but for the sign of a number (`Answer -5`); and the same in Chinese."""
_CHINESE_STATEMENT = re.compile(
    "^(?:(?:所以|因此|因而|故|综上所述|綜上所述|综上|綜上)[,、]? ?)?(?:(?:我的|最终|最終|正确|正確|最佳|最可能|标准|標準|参考|參考)的? ?)*"
    "(?:答案?|诊断|診斷|选项|選項|选择|選擇)(?: ?(?:应该|應該|应|應)?(?:是|为|為) ?:?| ?:|\\.(?= )) ?"
)
_LETTER_FOLLOWS = r"(?=[(\[【]?[A-Za-z](?![A-Za-z]))"
_LABEL = re.compile(rf"^(?:option|choice|answer) {_LETTER_FOLLOWS}", re.IGNORECASE)
_CHINESE_LABEL = re.compile(rf"^(?:故|所以|因此|应|應)?(?:选择|選擇|选项|選項|选|選|答案) ?{_LETTER_FOLLOWS}")
_LIST_MARK = re.compile(r"^(?:[-+*•‣] (?!\d)|#{1,6} )+")
_BRACKETED = re.compile(r"^[(\[【〔]{1,2} ?([A-Za-z]) ?[)\]】〕]{1,2} ?(?:[:;、。)]|[.,-](?!\d))? ?")
_POINTED = re.compile(r"^([A-Za-z]) ?[.:;)、。](?:[:;)、。]|\.(?!\d))* ?")
_DASHED = re.compile(r"^([A-Z])(?: ?, ?| [-–—] )")
_BARE = re.compile(r"^([A-Z])(?: ?[-–—/=] ?(?!\d)|[-–—/] ?| ?= ?| |(?=[^\x00-\x7f]))")
"""The signs and points before a number are the number's, in this and those above."""
_STATED = re.compile(
    r"^([A-Z])(?: is (?:the )?(?:most likely )?(?:correct|right|best)(?: (?:one|answer|option|choice|diagnosis))?"
    r"| ?是(?:最佳|最可能|唯一)?(?:正确|正確|对|對)?的?(?:答案|选项|選項|诊断|診斷)?(?<!是))[.!。]?$"
)
_AFTER_TEXT = re.compile(r"^(.+?) ?[(\[【]([A-Z])[)\]】]$")
_ALONE = re.compile(r"^([A-Za-z])$")
_OTHER_LETTER = re.compile(r"(?<![A-Za-z0-9'’-])([A-Z])(?![A-Za-z0-9'’-])")
_WORD = re.compile(r"[^\W\d_]{3}")
_DENIED = re.compile(
    r"(?:(?:is|was|seems|appears) )?(?:(?:very |most |highly )?unlikely|excluded|ruled out|wrong|incorrect|false|not\b)"
    "|[❌❎✗✘🚫]|(?:no|否)$|(?:是|為|为)?(?:不是|不为|不對|不对|不正确|不正確|并非|並非|错误|錯誤|错$|錯$|已?排除|可能性(?:小|低))"
)
_NONE_OF = re.compile(
    r"(?:(?:no|non|without|absence of|lack of) (?:(?:evidence|signs?) (?:of|for) )?|没有|沒有|并无|並無|未见|未見|无|無|非)"
)
"""Before the text of an option, which is then not there."""
_DENIED_AFTER_TEXT = re.compile(
    r"(?:(?:is|was|seems|appears) )?(?:(?:very |most |highly )?unlikely|excluded|absent|ruled out|wrong|incorrect|false"
    r"|[❌❎✗✘🚫]|不(?:可能|正确|正確|对|對|成立|存在)|(?:可以|可|已|被)?排除|可能性(?:小|低)|错误|錯誤|错$|錯$"
    r"|not (?:correct|right|likely|present|seen|answer)\b|not$)|(?:is|was) not\b"
)
_JOINER = re.compile(r"(?:(?:and|or|with|plus|versus|vs) |[&+/] ?|(?:合并|合併|伴有|伴|和|及|与|與|或) ?)+")
_SPECIES = re.compile(
    r"(?:abortus|acnes|aerogenes|aeruginosa|agalactiae|albicans|anthracis|aureus|auris|avium|baumannii|botulinum|bronchiseptica"
    r"|burgdorferi|burnetii|canis|catarrhalis|cepacia|cereus|chaffeensis|cloacae|coli|cruzi|dermatitidis|difficile"
    r"|diphtheriae|donovani|duodenale|elegans|enterocolitica|epidermidis|faecalis|faecium|falciparum|flavus|flexneri"
    r"|fragilis|freundii|fumigatus|glabrata|gondii|gonorrhoeae|granulosus|haemolyticus|henselae|histolytica|hydrophila"
    r"|immitis|influenzae|israelii|jejuni|jirovecii|koseri|krusei|lamblia|latum|leprae|lumbricoides|malariae|malayi|mansoni"
    r"|marcescens|melitensis|meningitidis|microti|mirabilis|monocytogenes|multilocularis|neoformans|niger|ovale|pallidum"
    r"|parapertussis|parapsilosis|parvum|perfringens|pertussis|phagocytophilum|pneumoniae|pneumophila|psittaci|pylori"
    r"|pyogenes|quintana|recurrentis|saginata|saprophyticus|septicum|sinensis|solium|sonnei|stercoralis|subtilis|tetani"
    r"|trachomatis|tropicalis|tuberculosis|typhi|vaginalis|vermicularis|vivax|vulnificus|welchii)\b"
)
"""After the first letter of a genus, as in `E. coli`: that letter names no option."""


def read_choice(text: str, options: Options) -> str | None:
    """The letter of the one option that `text` names, by letter, by text, or by both; None if none, several, or they contradict."""
    if len(text.strip()) > LONGEST:
        return None
    text = in_one_line(text)
    forms = {letter: _option_form(option) for letter, option in options.items()}
    named = _choices(text, forms)
    if (alone := stripped(text)) != text:
        named |= _choices(alone, forms)
    return named.pop() if len(named) == 1 else None


@functools.lru_cache(maxsize=1 << 16)
def _option_form(option: str) -> str:
    """An option's normal form: the same for all replies to its question, and most of the work of reading one."""
    return normalised(option)


def read_letter(text: str) -> str | None:
    """The letter that `text` gives as its answer where the options are not known; None if it gives none, or several."""
    text = stripped(in_one_line(text))
    for pattern in (_BRACKETED, _POINTED, _DASHED, _STATED, _ALONE):
        if match := pattern.match(text):
            letter, rest = match[1].upper(), text[match.end() :]
            others = {other for other in _OTHER_LETTER.findall(rest) if other not in (letter, "I")}
            return letter if not others and _is_label(match, rest, {}) and not _DENIED.match(normalised(rest)) else None
    return None


def true_choice(answer: str, options: Options) -> str:
    """The letter of the right answer.

    Raises:
        ValueError: It is none of the options, or could be two of them.
    """
    form = normalised(answer)
    if len(whole := [one for one, text in options.items() if form == normalised(f"{one}. {text}")]) == 1:
        return whole[0]
    texts = {letter for letter, text in options.items() if form and normalised(text) == form}
    letter = answer.strip(" \t\n()[].:")  # `(A)` is a letter as `A` is
    named = ({letter} if letter in options else set()) | texts
    if len(named) != 1:
        what = f"could be {' or '.join(sorted(named))}" if named else "is neither a letter nor a text"
        both = f"; write letter and text, as {f'{letter}. {options[letter]}'!r}" if letter in options and len(named) > 1 else ""
        raise ValueError(f"field 'answer': {answer!r} {what} of field 'options' ({', '.join(options)}){both}")
    return named.pop()


def in_one_line(text: str) -> str:
    """The plain text, where a line's end is the end of a sentence: "B", and below it why, is "B. Because"."""
    lines = [line for line in text.splitlines() if line.strip()]
    said = [line for line in map(plain, (*lines[:FIRST_LINES], " ".join(lines[FIRST_LINES:]))) if line]
    return " ".join([*(line if line[-1] in ".,:;-–" else f"{line}." for line in said[:-1]), *said[-1:]])


def is_statement(text: str) -> bool:
    """Whether a plain text says that it gives the answer, as "Answer: B" does."""
    return bool(_STATEMENT.match(text) or _CHINESE_STATEMENT.match(text))


def stripped(text: str) -> str:
    """The answer itself, of a plain text: without "the answer is" before it, quotes around it or a full stop after it."""
    before = None
    while before != text:
        before, text = text, _unquoted(text.strip().rstrip(" .。!"))
        for pattern in (_LIST_MARK, _STATEMENT, _CHINESE_STATEMENT, _LABEL, _CHINESE_LABEL):
            text = pattern.sub("", text)
    return text


def _choices(text: str, forms: Options) -> set[str]:
    """The letters that a plain text can be read as; `forms` are the options in normal form."""
    form = normalised(text)
    whole = {letter for letter, option in forms.items() if option and option == form}
    named = set(whole)
    if (match := _AFTER_TEXT.match(text)) and match[2] in forms and (form := normalised(match[1])) in forms.values() and form:
        return {match[2]} | {letter for letter, option in forms.items() if option == form}
    for pattern in (_BRACKETED, _POINTED, _DASHED, _BARE, _STATED, _ALONE):
        if not (match := pattern.match(text)):
            continue
        letter, rest = match[1].upper(), text[match.end() :]
        if letter not in forms or not _is_label(match, rest, forms) or (pattern is _BARE and normalised(rest) not in forms.values()):
            continue
        found = _with_rest(letter, rest, forms)
        if whole and found == {letter} and _first(normalised(rest), forms) != letter and normalised(rest):
            continue  # an option's very text, which happens to begin like a letter: "E. coli"
        named |= found
    return named


def _is_label(match: re.Match[str], rest: str, forms: Options) -> bool:
    """Whether a letter with a point after it is a letter, and no abbreviation: `B.Text` and `B. text`, not `e.g.` and `E. coli`."""
    if match.re is not _POINTED or not rest:
        return True
    form = normalised(rest)
    if _SPECIES.match(form):
        return _first(form, forms) == match[1].upper()
    if match[0].endswith(" ") or match[0][-1] != "." or not rest[0].isascii():
        return True
    return _WORD.match(rest) is not None or (not rest[0].isalnum()) or _first(form, forms) is not None


def _with_rest(letter: str, rest: str, forms: Options) -> set[str]:
    """A letter, and whatever else the words after it name; nothing where they take it back."""
    words = normalised(rest)
    first = _first(words, forms, letter)
    if first is not None and first != letter:
        return {letter, first}
    if first is None:
        absent = _NONE_OF.match(words)
        if _DENIED.match(words) or (absent and _first(words[absent.end() :], forms) == letter):
            return set()
        return {letter} | _named(words, forms) | {other for other in _OTHER_LETTER.findall(rest) if other in forms}
    after = words[len(forms[letter]) :].strip()
    if _DENIED_AFTER_TEXT.match(after):
        return set()
    after = _JOINER.sub("", after, count=1) if _JOINER.match(after) else after
    other, after = _next(after, forms)
    return {letter} if other is None or _DENIED.match(after) else {letter, other}


def _next(words: str, forms: Options) -> tuple[str | None, str]:
    """The option that words go on with, by its letter or text, and what comes after that."""
    word, _, after = words.partition(" ")
    letter = word.upper()
    if letter in forms and (word != "a" or not after or _first(after, forms) == "A" or _JOINER.match(after)):  # else an article
        return letter, after
    other = _first(words, forms)
    return other, words[len(forms[other]) :].strip() if other else words


def _first(words: str, forms: Options, letter: str | None = None) -> str | None:
    """The option with whose text the words begin: that of the longest, and of equal ones that of `letter`."""
    found = [other for other, form in forms.items() if form and words.startswith(form) and _ends_at(words, len(form))]
    return max(found, key=lambda other: (len(forms[other]), other == letter), default=None)


def _named(words: str, forms: Options) -> set[str]:
    """The options whose texts stand anywhere in the words, and not only inside a longer one's."""
    named: set[str] = set()
    for other in sorted(forms, key=lambda letter: -len(forms[letter])):
        form, rest, at = forms[other], [], 0
        for match in re.finditer(re.escape(form), words) if form and form in words else ():
            if _begins_at(words, match.start()) and _ends_at(words, match.end()):
                named.add(other)
                rest.append(words[at : match.start()])
                at = match.end()
        words = "\0".join([*rest, words[at:]])
    return named


def _begins_at(words: str, place: int) -> bool:
    before, here = words[place - 1 : place] if place else "", words[place : place + 1]
    return before in ("", " ", "\0") or is_cjk(before) or is_cjk(here)


def _ends_at(words: str, place: int) -> bool:
    after, last = words[place : place + 1], words[place - 1 : place]
    return after in ("", " ", "\0") or is_cjk(after) or (is_cjk(last) and after.isalnum())


def _unquoted(text: str) -> str:
    """Without quotes around it, however many."""
    for first, last in (('"', '"'), ("'", "'"), ("“", "”"), ("‘", "’"), ("「", "」")):
        while len(text) > 1 and text[0] == first and text[-1] == last:
            signs = min(len(text) - len(text.lstrip(first)), len(text) - len(text.rstrip(last)), len(text) // 2)
            text = text[signs : len(text) - signs].strip()
    return text
