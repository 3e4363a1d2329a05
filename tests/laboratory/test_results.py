"""What the laboratory's file says about results.

Intervals by age and sex, limits, rules, languages; and its errors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from wbcpipe.errors import ConfigError
from wbcpipe.laboratory.lab_file import load_lab
from wbcpipe.laboratory.languages import LANGUAGES, words
from wbcpipe.laboratory.loinc import CLASS_TERMS, PANEL_TERM, WBC_TERM, check_loinc
from wbcpipe.samples.order_record import Sex

if TYPE_CHECKING:
    from pathlib import Path

GOOD = """\
version = "2026-11"
laboratory = "St Elsewhere"

[result]
language = "de"
percent_decimals = 1

[reference]
source = "adults"
[reference.percent]
NEU = [40, 75]
[reference.absolute]
NEU = [2.0, 7.5]
[[reference.group]]
sex = "female"
age_years = [0, 18]
source = "girls"
percent.NEU = [20, 50]

[critical.NEU]
absolute_low = 0.5
percent_high = 95

[[reflex]]
figure = "percent"
class = "BAS"
above = 2
action = "second_reader"

[class.BLAST]
name = "Blasten"
loinc_percent = "26446-5"
loinc_percent_display = "Blasts/100 leukocytes in Blood"

[send]
unsigned = false

[[destination]]
name = "lis"
format = "oru"
host = "127.0.0.1"
port = 2575
"""


def load(folder: Path, text: str) -> object:
    path = folder / "lab.toml"
    path.write_text(text, encoding="utf-8")
    return load_lab(path)


def test_intervals_by_age_and_sex(tmp_path: Path) -> None:
    path = tmp_path / "lab.toml"
    path.write_text(GOOD, encoding="utf-8")
    lab = load_lab(path)
    assert lab.reference is not None
    assert lab.reference.of(Sex.FEMALE, 10.0).percent["NEU"] == (20, 50)
    for sex, age in ((Sex.MALE, 10.0), (Sex.FEMALE, 18.0), (Sex.FEMALE, None), (Sex.UNKNOWN, None)):
        assert lab.reference.of(sex, age).percent["NEU"] == (40, 75)
    assert lab.name_of("NEU") == "Neutrophile"
    assert lab.name_of("BLAST") == "Blasten"
    assert lab.destinations[0].port == 2575


BROKEN = [
    (
        "NEU = [40, 75]",
        "NUE = [40, 75]",
        "line 11: the class 'NUE' is not known, did you mean 'NEU'",
    ),
    ("NEU = [40, 75]", "NEU = [75, 40]", "line (9|10|8): .*the lower limit comes first"),
    ("NEU = [40, 75]", 'NEU = ["40", 75]', "line 11: .*valid number"),
    ("NEU = [40, 75]", "NEU = [40, 175]", "line 11: .*less than or equal to 100"),
    ("NEU = [40, 75]", "NEU = [40]", "line 11: "),
    ("NEU = [2.0, 7.5]", "NEU = [2,0, 7,5]", "line 13: "),
    ("age_years = [0, 18]", "age_years = [18, 0]", "line 14: .*age_years is \\[18, 0\\]"),
    ('sex = "female"', 'sex = "F"', "line 15: .*'female', 'male', 'other' or 'unknown'"),
    ('sex = "female"\nage_years = [0, 18]\n', "", "line 14: .*a group needs sex or age_years"),
    ("percent.NEU = [20, 50]", "percent.NEU = [-1, 50]", "line 18: .*greater than or equal to 0"),
    (
        "[critical.NEU]",
        "[critical.NEUT]",
        "line 20: the class 'NEUT' is not known, did you mean 'NEU'",
    ),
    ("absolute_low = 0.5\npercent_high = 95\n", "", "line 20: .*no limit is given"),
    ("absolute_low = 0.5", "absolute_lo = 0.5", "line 21: .*did you mean 'absolute_low'"),
    ("above = 2", "above = 2\nbelow = 1", "line 24: .*a rule needs one limit: below or above"),
    ('class = "BAS"\n', "", "line 24: .*a rule on 'percent' needs 'class'"),
    (
        'class = "BAS"',
        'class = "BASO"',
        "line 26: the class 'BASO' is not known, did you mean 'BAS'",
    ),
    ('action = "second_reader"', 'action = "shout"', "line 28: .*'second_reader', 'count_more'"),
    (
        'action = "second_reader"',
        'action = "count_more"\nhold = true',
        "line 24: .*hold is for the action",
    ),
    ('figure = "percent"', 'figure = "size"', "line 25: .*'counted', 'unidentified_percent'"),
    ('"26446-5"', '"26446-6"', "line 32: .*26446-5 would be right"),
    ('"26446-5"', '"blasts"', "line 32: .*no LOINC code"),
    (
        'loinc_percent_display = "Blasts/100 leukocytes in Blood"\n',
        "",
        "line 30: .*belong together",
    ),
    ('language = "de"', 'language = "fr"', "line 5: .*'en', 'de' or 'ar'"),
    ("percent_decimals = 1", "percent_decimals = 9", "line 6: .*less than or equal to 4"),
    ("unsigned = false", 'unsigned = "perhaps"', "line 36: .*boolean"),
    ("port = 2575", "port = 70000", "line 42: .*less than or equal to 65535"),
    ("port = 2575\n", "", "line 38: .*host and port belong together"),
    ('format = "oru"', 'format = "fhir"', "line 38: .*goes into a folder"),
    ('format = "oru"', 'format = "astm"', "line 40: .*'fhir', 'oru' or 'oul'"),
    (
        'host = "127.0.0.1"',
        'host = "127.0.0.1"\nfolder = "/tmp"',
        "line 38: .*needs a folder, or host and port",
    ),
    ('name = "lis"', 'name = "../lis"', "line 39: .*pattern"),
    (
        "port = 2575",
        'port = 2575\n[[destination]]\nname = "lis"\nformat = "oru"\nfolder = "/x"',
        "line 44: two dest",
    ),
]


@pytest.mark.parametrize(("before", "after", "reason"), BROKEN, ids=range(len(BROKEN)))
def test_a_broken_file_is_refused_with_line_and_reason(
    tmp_path: Path, before: str, after: str, reason: str
) -> None:
    assert GOOD.count(before) == 1
    with pytest.raises(ConfigError, match=reason):
        load(tmp_path, GOOD.replace(before, after))


def test_each_language_has_all_words() -> None:
    english = words("en")
    for language in LANGUAGES:
        own = words(language)
        assert own.classes.keys() == english.classes.keys() == CLASS_TERMS.keys()
        assert own.actions.keys() == english.actions.keys()
        assert "{version}" in own.other_lab_file
    assert any("؀" <= letter <= "ۿ" for letter in words("ar").panel)


def test_check_digits_of_all_codes() -> None:
    terms = [PANEL_TERM, WBC_TERM, *(term for pair in CLASS_TERMS.values() for term in pair)]
    assert len({check_loinc(term.code) for term in terms}) == len(terms) == 12
    # Band forms have a code of their own.
    assert "26508-2" not in {term.code for term in terms}
