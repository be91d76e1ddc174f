"""Whether a question can be understood alone and an answer answers it: a reason code for each way it fails.

The rules are few and each is plain: they find what is surely wrong and let doubtful rows pass.
"""

import re

from stages.lib.data.comparison import letters

DANGLING = re.compile(
    r"^(그것|그거|그건|그게|그곳|그때|그분|이것|이거|이건|이게|저것|저거|거기|저기)"
    r"(은|는|이|가|을|를|의|도|에|에서|에는|에서는|으로|로|까지|부터|만|과|와)?(?=\s|[?.!,]|$)"
    r"|^(?:(?:what|where|when|who|how|why|which)(?:'s)?\s+)?(?:is|are|was|were|does|do|did|can|will)?\s*"
    r"\b(?:it(?!\s+(?:that|possible|necessary|safe|legal|better|worth|true)\b)|they|he|she|this one|that one)\b",
    re.IGNORECASE,
)
LEAST_LETTERS = 3
NOUNS_LEAST = 3
"""Words from which on a phrase of nouns alone is none that a person types: a heading, a name of a form."""
PREDICATE = re.compile(
    r"([다요까오죠지라줘냐니나가래자음기함세걸군네데은는란아어여야해돼봐와워져쳐켜려펴셔겨껴쪄써커꺼떠퍼파빠싸혀뻐러더서게께든고며면"
    r"대내구듯당용임됨봄냄감옴줌짐움림남낌싶죵징염삼쥬슈애뭐때마재레]"
    r"|부탁|무엇|어디|언제|누구|얼마|왜|몇|만|로|추천|방법|좀)$"
)
"""How a Korean sentence or a wish may end, polite or plain; nouns with the same ending pass, too."""
GRAMMAR = re.compile(
    r"([은는이가을를에의도와과로서고게지면해어아요다만랑한된난온린진친쁜픈큰운른본준던런킨할될갈올볼줄]"
    r"|하고|부터|까지|처럼|보다|한테|너무|다시|그|내|네|좀|더|안|못)$"
)
"""How a word ends that is in a sentence: a particle, an ending, a verb before a noun (만난 사람)."""
AFTER_SENTENCE = re.compile(r"[\s.!~…;^,ㄱ-ㅣ)(\-]+$")
CUT_OFF = re.compile(
    r"([,(\[:;·\-–]|(^|\s)\S+(면서|어서|아서|려서|해서|가서|와서|에서|이며|하며|하고|되고|이고|있고|없고|지만|는데|은데|므로|니까|거나|도록|하여|를)"
    r"|(^|\s)(및|또는|그리고|하는|되는|있는|없는|위해|대한|통해)"
    r"|\s(and|or|the|a|an|of|to|with|for|because|which|that))$"
)
REFUSAL = re.compile(
    r"답(변|을|변을)?\s*(드릴|해 드릴|할|하실)?\s*수 (없|가 없)|답변(이|을 드리기|드리기)\s*(어렵|곤란)"
    r"|잘 모르겠|^모르겠"
    r"|(없는|없는 내용|않은) 내용입니다\.?$|알 수 없습니다\.?$"
    r"|\bas an ai\b|\bi('m| am) (sorry|unable|not able)\b.{0,40}\b(answer|help|assist|unable|cannot|can't)\b"
    r"|\bi (can't|cannot|do not|don't) (answer|help|assist|know)\b",
    re.IGNORECASE,
)
NAMES_A_LANGUAGE = re.compile(
    r"[가-힣]어(로|는|도|를|의)?(?=[\s,.?!]|$)|한자|한문|원어|번역|로마자|translat"
    r"|\b(korean|english|chinese|japanese|russian|arabic|hindi|thai|greek|ukrainian|bulgarian|persian|urdu)\b",
    re.IGNORECASE,
)
SCRIPTS = {
    "Hangul": re.compile("[가-힣ㄱ-ㅣ]"),
    "Latin": re.compile("[A-Za-zÀ-ɏ]"),
    "Han": re.compile("[一-鿿]"),
    "Kana": re.compile("[ぁ-ヿ]"),
    "Cyrillic": re.compile("[Ѐ-ӿ]"),
    "Arabic": re.compile("[؀-ۿ]"),
    "Greek": re.compile("[Ͱ-Ͽ]"),
    "Thai": re.compile("[฀-๿]"),
    "Devanagari": re.compile("[ऀ-ॿ]"),
}
PII = {
    "resident_number": re.compile(r"(?<!\d)\d{2}(0[1-9]|1[0-2])([0-2]\d|3[01])-?[1-8]\d{6}(?!\d)"),
    "card_number": re.compile(r"(?<!\d)(?:\d{4}[- ]){3}\d{4}(?!\d)|(?<!\d)\d{16}(?!\d)"),
    "mobile_phone": re.compile(r"(?<!\d)01[016789][- .]?\d{3,4}[- .]?\d{4}(?!\d)"),
    "email": re.compile(r"[\w.+-]+@[\w-]+(\.[\w-]+)+"),
}


def unclear(question: str, answer: str, answerable: bool) -> tuple[str, str]:
    """The reason code of what makes a pair unfit for training and what was found, or two empty strings.

    Codes: question_too_short, dangling_reference, no_predicate, answer_repeats_question, answer_is_refusal,
    answer_truncated, language. A row marked unanswerable is meant to refuse.
    """
    if len(letters(question)) < LEAST_LETTERS:
        return "question_too_short", f"{question!r} has {len(letters(question))} letters, needed {LEAST_LETTERS}"
    if found := DANGLING.match(question):
        return "dangling_reference", f"{found.group().strip()!r} refers to nothing in the question"
    if SCRIPTS["Hangul"].search(question) and nouns_alone(question):
        return "no_predicate", f"{question[-20:]!r} is nouns alone, with no verb, particle or question mark"
    if letters(question) == letters(answer):
        return "answer_repeats_question", "the answer is the question"
    if answerable and (found := REFUSAL.search(answer)) and len(answer) < 120:
        return "answer_is_refusal", f"{found.group()!r} in a row that isn't marked answerable: false"
    if found := CUT_OFF.search(answer):
        return "answer_truncated", f"ends in {answer[-15:]!r}"
    return other_language(question, answer)


def nouns_alone(question: str) -> bool:
    """Whether a Korean text is a row of nouns: no question mark, no ending of a sentence, no grammar in its words."""
    if "?" in question or "？" in question:
        return False
    words = AFTER_SENTENCE.sub("", question).split()
    return len(words) >= NOUNS_LEAST and not PREDICATE.search(words[-1]) and not any(map(GRAMMAR.search, words[:-1]))


def other_language(question: str, answer: str) -> tuple[str, str]:
    """`language` if the answer is in another script than the question; names and short Latin answers are fine."""
    asked, answered = script(question), script(answer)
    if not answered or not asked or answered == asked or NAMES_A_LANGUAGE.search(question):
        return "", ""
    if {asked, answered} == {"Han", "Kana"}:  # Japanese
        return "", ""
    if SCRIPTS[asked].search(answer) or (answered == "Latin" and len(answer.split()) < 8):
        return "", ""
    return "language", f"the question is in {asked}, the answer in {answered}"


def script(text: str) -> str:
    """The script that a text is written in, or an empty string if it has letters of none of them.

    Korean with a Latin name in it (Green Card 센터의 문의처는?) is Korean if its last letter is: Korean ends in a verb
    or a particle, and other languages hardly end in a Korean name. Else the script that most letters have.
    """
    counts = {name: len(pattern.findall(text)) for name, pattern in SCRIPTS.items()}
    last = next((char for char in reversed(text) if char.isalpha()), "")
    if SCRIPTS["Hangul"].match(last):
        return "Hangul"
    name = max(counts, key=counts.__getitem__)
    return name if counts[name] else ""


def personal_data(text: str) -> list[str]:
    """The kinds of personal data that the text seems to hold: resident_number, card_number, mobile_phone, email."""
    kinds = []
    for kind, pattern in PII.items():
        found = pattern.search(text)
        if found and (kind != "card_number" or passes_luhn(found.group())):
            kinds.append(kind)
    return kinds


def passes_luhn(number: str) -> bool:
    """Whether the digits pass the check that every payment card number passes (ISO/IEC 7812-1)."""
    digits = [int(char) for char in number if char.isdigit()][::-1]
    return (sum(digits[0::2]) + sum(sum(divmod(2 * digit, 10)) for digit in digits[1::2])) % 10 == 0
