"""What each task says to a model, letter by letter, and where the images stand."""

import json
from pathlib import Path

import pytest
from task_files import diagnosisarena, medbullets, medqa, medxpertqa, mmmu, mmmu_pro, mmxu, write_csv, write_jsonl, write_parquet

from mede2_jax.config import UserError
from mede2_jax.reasoning.prompts import SYSTEM
from mede2_jax.tasks.asking import OURS, second_turn
from mede2_jax.tasks.catalogue import TASKS, find_task, open_items
from mede2_jax.tasks.item import Item
from mede2_jax.tasks.mmmu_pro import INSTRUCTIONS

PROMPTS = Path(__file__).parents[2].parent / "shared" / "benchmarks" / "prompts.json"
STEPS = "Q: {}\nA: Let's think step by step."
LAST_LINE = (
    "The last line of your response should be of the following format: 'Answer: $LETTER' (without quotes) where LETTER is one of options."
)


def asked(name, data, prompt):
    """Each item's system turn, its user turn with `[name]` for an image, and what the user says then."""
    task = find_task(name)
    found = []
    for item in open_items(task, data).items:
        one = task.asked(item, prompt)
        images, text = iter(one.images), ""
        *system, user = one.messages
        for part in [user.content] if isinstance(user.content, str) else user.content:
            text += part if isinstance(part, str) else part.text if part.type == "text" else f"[{next(images).name}]"
        assert next(images, None) is None and user.image_count == len(one.images)
        found.append((system[0].content if system else None, text, one.then))
    return found


MM = "A patient, number {}. What is seen?\nAnswer Choices: (A) finding 0 (B) finding 1 (C) finding 2 (D) finding 3 (E) finding 4"
MEDICAL, BOXED = "You are a helpful medical assistant.", "Put your final answer within \\boxed{}. "
THEREFORE = "Therefore, among A through {}, the answer is"


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("cot", (MEDICAL, STEPS.format(MM.format(1)) + "[MM-1-a.jpeg][MM-1-b.jpeg]", THEREFORE.format("E"))),
        ("ao", ("Please answer only.", f"Q: {MM.format(1)}\nA: Among A through E, the answer is[MM-1-a.jpeg][MM-1-b.jpeg]", None)),
        ("reasoning", (MEDICAL, STEPS.format(MM.format(1)) + "[MM-1-a.jpeg][MM-1-b.jpeg]", None)),
        ("boxed", (None, STEPS.format(MM.format(1)) + "[MM-1-a.jpeg][MM-1-b.jpeg]", BOXED + THEREFORE.format("E"))),
        ("mede2", (SYSTEM.text, "[MM-1-a.jpeg][MM-1-b.jpeg]" + MM.format(1), None)),
    ],
)
def test_medxpertqa(tmp_path, prompt, expected):
    row = medxpertqa(1, images="ab")
    data = write_jsonl(tmp_path / "MM" / "test.jsonl", [row | {"question": row["question"] + " \n"}])
    assert asked("medxpertqa_mm", data, prompt) == [expected]


def test_medxpertqa_text_has_ten_letters(tmp_path):
    data = write_jsonl(tmp_path / "Text" / "test.jsonl", [medxpertqa(1, "J", subset="Text", images=(), options=10)])
    ((system, text, then),) = asked("medxpertqa_text", data, "cot")
    assert (system, then) == (MEDICAL, "Therefore, among A through J, the answer is")
    assert text.endswith("(I) finding 8 (J) finding 9\nA: Let's think step by step.")


def test_medqa_and_medbullets_are_asked_as_medxpertqa(tmp_path):
    data = write_jsonl(tmp_path / "medqa.jsonl", [medqa(3)])
    body = "Case 3?\nAnswer Choices: (A) drug A3 (B) drug B3 (C) drug C3 (D) drug D3"
    assert asked("medqa", data, "cot") == [(MEDICAL, STEPS.format(body), "Therefore, among A through D, the answer is")]
    assert asked("medqa", data, "ao") == [("Please answer only.", f"Q: {body}\nA: Among A through D, the answer is", None)]
    assert asked("medqa", data, "mede2") == [(SYSTEM.text, body, None)]
    data = write_csv(tmp_path / "medbullets_op5.csv", [medbullets(1)])
    body = "Case 1,\nwith a line end?\nAnswer Choices: (A) step a (B) step b (C) step c (D) step d (E) step e"
    assert asked("medbullets_op5", data, "reasoning") == [(MEDICAL, STEPS.format(body), None)]


def test_mmmu_has_its_images_in_the_places_of_their_marks(tmp_path):
    images = {1: b"1", 2: b"2", 3: b"3"}
    rows = [
        mmmu(1, question="First <image 2>, then <image 1>, again <image 2>.", images=images),
        mmmu(2, options=("<image 3>", "not <image 1>"), question="Which?", images=images),
        mmmu(3, options=(), answer="2", question="How many in <image 1>?", images=images),
        mmmu(4, question="No picture.", images=images),
    ]
    data = write_parquet(tmp_path / "Pharmacy" / "validation-0.parquet", rows).parents[1]
    direct = "Answer with the option's letter from the given choices directly."
    assert asked("mmmu_health", data, "official") == [
        (None, f"First [2.png], then [1.png], again [2.png].\n(A) True\n(B) False\n\n{direct}", None),
        (None, f"Which?\n(A) [3.png]\n(B) not [1.png]\n\n{direct}", None),
        (None, "How many in [1.png]?\nAnswer the question using a single word or phrase.", None),
        (None, f"No picture.\n(A) True\n(B) False\n\n{direct}", None),
    ]
    assert asked("mmmu_health", data, "mede2") == [
        (SYSTEM.text, "First [2.png], then [1.png], again [2.png].\nAnswer Choices: (A) True (B) False", None),
        (SYSTEM.text, "Which?\nAnswer Choices: (A) [3.png] (B) not [1.png]", None),
        (SYSTEM.text, "How many in [1.png]?", None),
        (SYSTEM.text, "No picture.\nAnswer Choices: (A) True (B) False", None),
    ]


def test_mmmu_pro_has_its_images_after_the_text_as_often_as_their_marks(tmp_path):
    images = {1: b"1", 2: b"2", 4: b"4"}
    rows = [mmmu_pro(1, question="See <image 2> and <image 1>, <image 2>.", options=("a", "b <image 4>", "c"), answer="B", images=images)]
    data = write_parquet(tmp_path / "standard (10 options)" / "test-0.parquet", rows).parents[1]
    body = "See <image> and <image>, <image>.\nA. a\nB. b <image>\nC. c\n"
    tail = "[2.png][1.png][2.png][4.png]"
    direct = "Answer with the option letter from the given choices directly."
    cot = f"Answer the preceding multiple choice question. {LAST_LINE} Think step by step before answering."
    assert asked("mmmu_pro_standard10", data, "direct") == [(None, body + direct + tail, None)]
    assert asked("mmmu_pro_standard10", data, "cot") == [(None, body + cot + tail, None)]
    ours = "See [2.png] and [1.png], [2.png].\nAnswer Choices: (A) a (B) b [4.png] (C) c"
    assert asked("mmmu_pro_standard10", data, "mede2") == [(SYSTEM.text, ours, None)]


def test_options_in_a_list_in_a_list_are_one_to_the_owner_and_several_to_us(tmp_path):
    """His code takes the inner list for the only option: it shows that list, and no letter but A can be read."""
    for name, row in (("mmmu", mmmu), ("mmmu_pro_standard10", mmmu_pro)):
        task = find_task(name)
        rows = [row(1, options=[["low", "high"]], answer="B", question="Which?")]
        data = write_parquet(tmp_path / f"{name}.parquet", rows)
        (item,) = open_items(task, data).items
        for prompt in task.prompts:
            ((_, said, _),) = asked(name, data, prompt)
            assert "['low', 'high']" in said and "B. high" not in said and "(B)" not in said
            assert [task.rule(item, prompt).read(reply).answer for reply in ("(B)", "(A)")] == [None, "A"]
        assert asked(name, data, "mede2") == [(SYSTEM.text, "Which?\nAnswer Choices: (A) low (B) high", None)]
        assert task.rule(item, "mede2").read("(B)").answer == "B"


def test_mmmu_pros_pictures_of_a_question_come_with_the_instruction(tmp_path):
    row = {
        "id": "test_Pharmacy_1",
        "image": {"bytes": b"x", "path": "s.png"},
        "options": "['a', 'b']",
        "answer": "B",
        "subject": "Pharmacy",
    }
    data = write_parquet(tmp_path / "vision" / "test-0.parquet", [row]).parents[1]
    cot = f"Write out the multiple-choice question in the image and then solve it. {LAST_LINE} Think step by step before answering."
    direct = f"Answer with the option letter from the given choices directly. {LAST_LINE}"
    assert asked("mmmu_pro_vision", data, "cot") == [(None, f"{cot}[s.png]", None)]
    assert asked("mmmu_pro_vision", data, "direct") == [(None, f"{direct}[s.png]", None)]
    assert asked("mmmu_pro_vision", data, "mede2") == [(SYSTEM.text, "[s.png]Answer the multiple-choice question in the image.", None)]


def test_mmxu_names_both_images_the_prior_one_first(tmp_path):
    data = write_jsonl(tmp_path / "MMXU-test.jsonl", [mmxu(7)])
    prior, current = (f"files/p10/p10000032/s7{n}/a.jpg" for n in (0, 1))
    question = "What changed?\nAnswer Choices: (A) change A (B) change B (C) change C (D) change D"
    body = f"Prior image: [{prior}]\nCurrent image: [{current}]\n{question}"
    assert asked("mmxu", data, "mede2") == [(SYSTEM.text, body, None)]
    assert asked("mmxu", data, "cot") == [(MEDICAL, STEPS.format(body), "Therefore, among A through D, the answer is")]


def test_diagnosisarena_has_its_options_as_the_file_has_them(tmp_path):
    options = "A. gout\nB. lupus\nC. flu\nD. rabies"
    data = write_parquet(tmp_path / "data" / "test-0.parquet", [diagnosisarena(3, options)]).parents[1]
    ((system, text, then),) = asked("diagnosisarena", data, "official")
    assert system is None and then is None
    assert text == (
        "\nAccording to the provided medical case and select the most appropriate diagnosis from the following four options. "
        "Put your final answer within \\boxed{}.\n\nHere is the medical case: \nCase Information:\nCase Information of 3\n"
        "Physical Examination:\nPhysical Examination of 3\nDiagnostic Tests:\nDiagnostic Tests of 3\n\nHere are the four options: \n"
        f"{options}\n\nPut your final answer letter within \\boxed{{}}.\nFinal answer: \\boxed{{Correct Option Letter}}\n"
    )
    ((_, ours, _),) = asked("diagnosisarena", data, "mede2")
    assert ours.startswith("Case Information:\nCase Information of 3\n") and ours.endswith(
        "\nAnswer Choices: (A) gout (B) lupus (C) flu (D) rabies"
    )


@pytest.mark.skipif(not PROMPTS.is_file(), reason=f"the owners' prompts are not at {PROMPTS}")
def test_the_long_prompts_are_the_owners_byte_for_byte(tmp_path):
    known = json.loads(PROMPTS.read_text("utf-8"))
    assert {key: known["mmmu_pro"][key[0]][key[1]] for key in INSTRUCTIONS} == INSTRUCTIONS
    row = diagnosisarena(3, "A. gout\nB. lupus")
    data = write_jsonl(tmp_path / "diagnosisarena.jsonl", [row])
    filled = tuple(row[name] for name in ("Case Information", "Physical Examination", "Diagnostic Tests", "Options"))
    assert asked("diagnosisarena", data, "official")[0][1] == known["diagnosisarena_mcq"] % filled
    assert asked("diagnosisarena_open", data, "official")[0][1] == known["diagnosisarena_open"] % filled[:3]
    data = write_parquet(
        tmp_path / "Pharmacy" / "validation-0.parquet", [mmmu(1, question="q", images={}), mmmu(2, options=(), question="q")]
    )
    choice, short = asked("mmmu_health", data, "official")
    assert choice[1] == known["mmmu_choice"].format(question="q", options="(A) True\n(B) False\n")
    assert short[1] == known["mmmu_short"].format(question="q")


def test_without_choices_the_rest_is_said_as_before(tmp_path):
    data = write_jsonl(tmp_path / "MM" / "test.jsonl", [medxpertqa(1, "D", images="ab")])
    asked_so = "[MM-1-a.jpeg][MM-1-b.jpeg]A patient, number 1. What is seen?"
    assert asked("medxpertqa_mm", data, "mede2_open") == [(SYSTEM.text, asked_so, None)]
    data = write_jsonl(tmp_path / "medqa.jsonl", [medqa(3)])
    assert asked("medqa", data, "mede2_open") == [(SYSTEM.text, "Case 3?", None)]
    data = write_csv(tmp_path / "medbullets_op5.csv", [medbullets(1)])
    assert asked("medbullets_op5", data, "mede2_open") == [(SYSTEM.text, "Case 1,\nwith a line end?", None)]
    data = write_jsonl(tmp_path / "MMXU-test.jsonl", [mmxu(7)])
    prior, current = (f"files/p10/p10000032/s7{n}/a.jpg" for n in (0, 1))
    body = f"Prior image: [{prior}]\nCurrent image: [{current}]\nWhat changed?"
    assert asked("mmxu", data, "mede2_open") == [(SYSTEM.text, body, None)]


def test_without_choices_images_of_the_question_stay_in_their_places(tmp_path):
    images = {1: b"1", 2: b"2", 3: b"3"}
    rows = [
        mmmu(1, question="First <image 2>, then <image 1>.", options=("<b>", "two\nlines"), answer="B", images=images),
        mmmu(3, options=(), answer="2", question="How many in <image 1>?", images=images),
    ]
    data = write_parquet(tmp_path / "Pharmacy" / "validation-0.parquet", rows).parents[1]
    assert asked("mmmu_health", data, "mede2_open") == [
        (SYSTEM.text, "First [2.png], then [1.png].", None),
        (SYSTEM.text, "How many in [1.png]?", None),
    ]
    task = find_task("mmmu_health")
    seen = [task.as_asked(item, "mede2_open") for item in open_items(task, data).items]
    assert [(item.answer, dict(item.options), item.is_open) for item in seen] == [("two\nlines", {}, True), ("2", {}, True)]
    rows = [mmmu_pro(1, question="See <image 2>.", options=("a", "b", "c"), answer="B", images=images)]
    data = write_parquet(tmp_path / "standard (4 options)" / "test-0.parquet", rows).parents[1]
    assert asked("mmmu_pro_standard4", data, "mede2_open") == [(SYSTEM.text, "See [2.png].", None)]


@pytest.mark.parametrize("options", [("<image 2>", "<image 3>"), ("yes", "see <image 2>"), ("yes", " ")])
def test_options_that_are_images_cannot_be_left_out(tmp_path, options):
    rows = [mmmu(1, options=options, images={1: b"1", 2: b"2", 3: b"3"}), mmmu(2)]
    data = write_parquet(tmp_path / "Pharmacy" / "validation-0.parquet", rows).parents[1]
    task = find_task("mmmu")
    first, second = open_items(task, data).items
    assert task.as_asked(first, "mede2_open") is None and task.as_asked(first, "mede2") is first
    assert task.as_asked(second, "mede2_open").answer == "True"
    with pytest.raises(UserError, match="validation_Pharmacy_1: its options are images, which cannot be left out"):
        task.asked(first, "mede2_open")


def test_several_right_options_are_several_right_texts():
    task = find_task("medqa")
    item = Item("x", "Which?", ("A", "C", "D"), {"A": "zinc", "B": "iron", "C": "zinc", "D": "Zn"})
    assert task.as_asked(item, "mede2_open").answer == ("zinc", "Zn")


@pytest.mark.parametrize(
    ("task", "why"),
    [
        ("mmmu_pro_vision", "its choices are in the picture"),
        ("mmmu_pro_vision_health", "its choices are in the picture"),
        ("diagnosisarena", "diagnosisarena_open asks that"),
        ("diagnosisarena_open", "it is open; mede2 asks it as it is"),
        ("vqa_rad", "it has no choices to leave out; mede2 asks it as it is"),
    ],
)
def test_some_tasks_have_no_choices_that_could_be_left_out(task, why):
    with pytest.raises(UserError) as raised:
        find_task(task).prompt_names("mede2_open")
    assert f"--prompt=mede2_open is none of {task}'s ({why}): mede2, " in str(raised.value)


def test_diagnosisarena_open_asks_for_five_diagnoses_and_in_our_words_for_one(tmp_path):
    data = write_parquet(tmp_path / "data" / "test-0.parquet", [diagnosisarena(3, "A. x\nB. y")]).parents[1]
    ((system, text, then),) = asked("diagnosisarena_open", data, "official")
    assert system is None and then is None
    assert text == (
        "\nAs a medical expert, please make a diagnosis for the patient's disease based on the case information, \n"
        "physical examination, and diagnostic tests. Please enumerate the top 5 most likely diagnoses for the \n"
        "following patient in order, with the most likely disease listed first.\n\nCase Information:\nCase Information of 3\n\n"
        "Physical Examination:\nPhysical Examination of 3\n\nDiagnostic tests:\nDiagnostic Tests of 3\n\n"
        "Output the diagnosis in numeric order, one per line. For example:\n1. Disease A;\n2. Disease B;\n...\n\n"
        "Do not output anything else!\n"
    )
    ((system, ours, _),) = asked("diagnosisarena_open", data, "mede2")
    assert system == SYSTEM.text and ours == (
        "Case Information:\nCase Information of 3\nPhysical Examination:\nPhysical Examination of 3\n"
        "Diagnostic Tests:\nDiagnostic Tests of 3\n\nWhat is the most likely diagnosis?"
    )


def test_a_mark_without_its_image_is_said(tmp_path):
    row = mmmu(1)
    data = write_jsonl(tmp_path / "mmmu.jsonl", [{name: value for name, value in row.items() if "image" not in name}])
    for prompt in ("official", "mede2"):
        with pytest.raises(UserError, match="validation_Pharmacy_1: <image 1> stands in its text, and its file holds no such image"):
            asked("mmmu", data, prompt)


def test_names_of_prompts():
    assert find_task("medqa").prompt_names("official") == ("cot", "ao", "reasoning", "boxed")
    assert find_task("mmmu").prompt_names("official") == ("official",)
    assert all(task.prompt_names(OURS) == ("mede2",) for task in TASKS.values())
    with pytest.raises(UserError, match=r"--prompt=ao is none of mmmu's: mede2, mede2_open, or official for all of its owner's$"):
        find_task("mmmu").prompt_names("ao")
    with pytest.raises(UserError, match=r"--prompt=haiku is none of mmmu_pro_vision's: mede2, cot, direct, or official"):
        find_task("mmmu_pro_vision").prompt_names("haiku")


def test_the_second_turn_holds_the_first_reply():
    task = find_task("medqa")
    first = task.asked(task.read(medqa(1) | {"id": "medqa-1"}, "here"), "cot")
    turns = second_turn(first.messages, " So B. ", first.then)
    assert [(turn.role, turn.content) for turn in turns[2:]] == [("assistant", " So B. "), ("user", first.then)]
