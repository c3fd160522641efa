"""The paper's printed percentages as counts, line by line as they were worked out by hand."""

import pytest

from mede2_jax.report.paper import OVERALL, across_tables, checked_tables, checked_text, paper

QWEN, INTERN = "QwenVL2.5-7B", "InternVL3.0-8B"
BY_TYPE = {
    "GPT-4o": (589, 267, 856),
    "QvQ-Max": (509, 216, 725),
    "Gemini-2.5-Pro": (892, 383, 1275),
    "InternVL3.0-38B": (389, 162, 551),
    QWEN: (289, 125, 414),
    f"{QWEN} +Stage-I": (354, 149, 503),
    f"{QWEN} +Stage-II": (373, 158, 531),
    INTERN: (305, 132, 437),
    f"{INTERN} +Stage-I": (378, 158, 536),
    f"{INTERN} +Stage-II": (375, 172, 547),
    "QwenVL2.5-32B": (376, 171, 547),
    "QwenVL2.5-72B": (392, 175, 567),
    "OpenAI-o1": (76, 36, 112),
}
CUT = {"QwenVL2.5-32B": ["30.86"], "QwenVL2.5-72B": ["27.10", "31.58"]}
BY_TASK = {
    "QwenVL2.5-32B": (126, 91, 331, 377, 171, 548),
    "QwenVL2.5-32B +Stage-I": (148, 107, 386, 457, 184, 641),
    "QwenVL2.5-32B +Stage-II": (161, 115, 394, 485, 185, 670),
    "QwenVL2.5-72B": (136, 85, 346, 392, 175, 567),
    "QwenVL2.5-72B +Stage-I": (181, 148, 463, 567, 225, 792),
    "QwenVL2.5-72B +Stage-II": (186, 150, 473, 573, 236, 809),
}
OF_150 = {
    "GPT-4o": 89, "QvQ-Max": 106, "OpenAI-o1": 90, "Gemini-2.5-Pro": 121, "QwenVL2.5-32B": 95, "QwenVL2.5-72B": 105,
    "InternVL3.0-38B": 102, "InternVL3.0-78B": 107, QWEN: 83, INTERN: 92, "GMAI-VL-R1 SFT": 84, "GMAI-VL-R1 RLT": 86,
    f"{QWEN} +Stage-I": 93, f"{QWEN} +Stage-II": 99, f"{INTERN} +Stage-I": 104, f"{INTERN} +Stage-II": 105,
}  # fmt: skip
OF_286 = {
    "GPT-4o": 117, "QvQ-Max": 149, "OpenAI-o1": 120, "Gemini-2.5-Pro": 189, "QwenVL2.5-32B": 138, "QwenVL2.5-72B": 144,
    "InternVL3.0-38B": 129, "InternVL3.0-78B": 147, INTERN: 105, f"{INTERN} +Stage-I": 124, f"{INTERN} +Stage-II": 140,
    f"{QWEN} +Stage-I": 104, f"{QWEN} +Stage-II": 111, "Chiron-o1": 97,
}  # fmt: skip
OF_288 = {QWEN: ("28.47", 82), "GMAI-VL-R1 SFT": ("32.99", 95), "GMAI-VL-R1 RLT": ("34.03", 98)}


def rows(name):
    return {row.method: row for row in checked_tables()[name]}


def cell(method, benchmark, name=OVERALL, table="table1"):
    return rows(table)[method].cell(paper().tables[table], benchmark, name)


@pytest.mark.parametrize("method", BY_TYPE)
def test_rows_of_table_1_that_hold(method):
    row, found = rows("table1")[method], [cell(method, "medxpertqa_mm", name) for name in ("Reasoning", "Understanding", OVERALL)]
    assert tuple(one.count for one in found) == BY_TYPE[method]
    assert [one.total for one in found] == ([144, 55, 199] if method == "OpenAI-o1" else [1446, 554, 2000])
    assert row.holds == ("if cut" if method in CUT else "yes")
    assert [one.printed for one in found if one.ways == {"cut"}] == CUT.get(method, [])
    if method in CUT:
        assert any(note.startswith("holds only if decimals are cut") for note in row.notes)


def test_rows_of_table_1_that_do_not_hold():
    does_not = [row for row in checked_tables()["table1"] if row.holds == "no"]
    assert [row.method for row in does_not] == ["InternVL3.0-78B", "Chiron-o1"]
    large, chiron = does_not
    assert cell("InternVL3.0-78B", "medxpertqa_mm", "Reasoning").counts == ()
    assert large.notes == ("does not hold: 30.20 = 604 and 35.92 = 199 leave 405 of 1,446 = 28.01; the printed 28.80 is no k of 1,446",)
    assert "does not hold: the parts make 337 + 139 = 476, 23.80; the printed 24.20 is 484" in chiron.notes


def test_rows_with_an_overall_score_alone():
    assert [cell(f"GMAI-VL-R1 {name}", "medxpertqa_mm").count for name in ("SFT", "RLT")] == [471, 476]
    assert [rows("table1")[f"GMAI-VL-R1 {name}"].holds for name in ("SFT", "RLT")] == ["", ""]
    assert cell("GMAI-VL-R1 SFT", "medxpertqa_mm", "Reasoning") is None


def test_counts_of_mmmu_health():
    assert {method: cell(method, "mmmu_health").count for method in OF_150} == OF_150
    chiron = cell("Chiron-o1", "mmmu_health")
    assert (chiron.count, chiron.ways) == (82, {"cut"})
    assert {row.method for row in checked_tables()["table1"]} == {*OF_150, "Chiron-o1"}


def test_counts_of_mmmu_pro_health_and_those_of_another_denominator():
    assert {method: cell(method, "mmmu_pro_health").count for method in OF_286} == OF_286
    for method, (printed, count) in OF_288.items():
        found = cell(method, "mmmu_pro_health")
        assert (found.printed, found.counts, found.count, found.other) == (printed, (), None, (count, 288))
        assert f"{printed} is no k of 286; it is {count} of 288" in rows("table1")[method].notes
    assert {*OF_286, *OF_288} == {row.method for row in checked_tables()["table1"]}
    over = "the gain on MMMU-Pro-Health is of 286 items over a base of 288"
    assert [row.method for row in checked_tables()["table1"] if over in row.notes] == [f"{QWEN} +Stage-I", f"{QWEN} +Stage-II"]


@pytest.mark.parametrize("method", BY_TASK)
def test_table_2_holds_by_task_and_by_type(method):
    names = ("Treatment", "Basic Science", "Diagnosis", "Reasoning", "Understanding", OVERALL)
    found = [cell(method, "medxpertqa_mm", name, "table2") for name in names]
    assert tuple(one.count for one in found) == BY_TASK[method]
    assert rows("table2")[method].holds in ("yes", "if cut")


def test_how_decimals_of_table_2_end():
    found = {one.printed: one.ways for row in checked_tables()["table2"] for one in row.cells}
    assert [printed for printed, ways in found.items() if ways == {"cut"}] == ["33.03", "35.93", "32.57"]
    assert [printed for printed, ways in found.items() if ways == {"half up"}] == ["28.13"]


def test_gains_that_are_not_the_difference_of_the_printed_scores():
    wrong = {
        (row.method, delta.printed): delta.found
        for name in ("table1", "table2")
        for row in checked_tables()[name]
        for delta in row.deltas
        if delta is not None and delta.printed != delta.found
    }
    assert wrong == {("Chiron-o1", "+2.34"): "+2.35", ("Chiron-o1", "-6.72"): "-6.73", ("Chiron-o1", "-2.80"): "-2.81"}


def test_what_the_text_says_otherwise():
    first, second = checked_text()
    assert "33.45 stands for the table's 34.03" in first and first.endswith("it fits no count of 286 or 288.")
    assert "6.67 on MMMU-Pro-Health is Table 1's gain on MMMU-Health" in second
    assert across_tables() == ["QwenVL2.5-32B is 547 (27.35) in Table 1 and 548 (27.40) in Table 2."]
