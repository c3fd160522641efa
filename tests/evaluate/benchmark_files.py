"""Every benchmark in a folder of its own, three items each, with images that can be told apart."""

import base64
import io

from PIL import Image
from task_files import diagnosisarena, medbullets, medqa, medxpertqa, mmmu, mmmu_pro, mmxu, write_csv, write_jsonl, write_parquet

ITEMS = 3


def png(red, size=(64, 48)):
    file = io.BytesIO()
    Image.new("RGB", size, (red, 60, 90)).save(file, "PNG")
    return file.getvalue()


def put(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def of_medxpertqa_mm(folder):
    rows = [medxpertqa(n, "ABC"[n], images="abcdef"[: (6, 2, 1)[n]]) for n in range(ITEMS)]
    for number, row in enumerate(rows):
        for place, name in enumerate(row["images"]):
            put(folder / "images" / name, png(10 * number + place))
    write_jsonl(folder / "MM" / "test.jsonl", rows)


def of_medxpertqa_text(folder):
    write_jsonl(folder / "Text" / "test.jsonl", [medxpertqa(n, "ABC"[n], subset="Text", images=(), options=10) for n in range(ITEMS)])


def of_mmmu_health(folder):
    rows = [
        mmmu(1, question="First <image 2>, then <image 1>.", images={1: png(101), 2: png(102), 3: png(103)}),
        mmmu(2, answer="B", options=("<image 1>", "none"), images={1: png(104)}),
        mmmu(3, options=(), answer="2", images={1: png(101)}),
    ]
    write_parquet(folder / "Pharmacy" / "validation-00000-of-00001.parquet", rows)


def of_mmmu_pro_standard10(folder):
    rows = [mmmu_pro(n, question="See <image 1> and <image 1>.", images={1: png(110 + n)}) for n in range(ITEMS)]
    write_parquet(folder / "standard (10 options)" / "test-00000-of-00001.parquet", rows)


def of_mmmu_pro_standard4(folder):
    rows = [mmmu_pro(n, options=("left", "right", "both", "neither"), images={1: png(115 + n)}) for n in range(ITEMS)]
    write_parquet(folder / "standard (4 options)" / "test-00000-of-00001.parquet", rows)


def of_mmmu_pro_vision(folder):
    rows = [
        {"id": f"test_Pharmacy_{n}", "image": {"bytes": png(120 + n), "path": f"{n}.png"}, "options": "['x', 'y']", "answer": "B",
         "subject": "Pharmacy"}
        for n in range(ITEMS)
    ]  # fmt: skip
    write_parquet(folder / "vision" / "test-00000-of-00001.parquet", rows)


def of_medqa(folder):
    write_jsonl(folder / "phrases_no_exclude_test.jsonl", [medqa(n, "ABC"[n]) for n in range(ITEMS)])


def of_medbullets_op4(folder):
    write_csv(folder / "medbullets_op4.csv", [medbullets(n, "ABC"[n], options=4) for n in range(ITEMS)])


def of_medbullets_op5(folder):
    write_csv(folder / "medbullets_op5.csv", [medbullets(n, "ABC"[n]) for n in range(ITEMS)])


def of_mmxu(folder):
    rows = [mmxu(n, "ABC"[n]) for n in range(1, 1 + ITEMS - 1)] + [mmxu(9, patient="p10000099")]
    for row in rows:
        put(folder / row["prior_image_path"], png(130 + row["id"]))
        put(folder / row["cur_image_path"], png(140 + row["id"]))
    write_jsonl(folder / "MMXU-test.jsonl", rows)


def of_diagnosisarena(folder):
    rows = [diagnosisarena(n, "A. gout\nB. lupus\nC. flu\nD. rabies", "ABC"[n]) for n in range(ITEMS)]
    write_parquet(folder / "data" / "test-00000-of-00001.parquet", rows)


def of_diagnosisarena_open(folder):
    of_diagnosisarena(folder)


OWN = """name: ward_round
files: ["*.jsonl"]
columns: {id: case, question: question, answer: answer, options: options, images: pictures, groups: [part]}
kinds:
  column: kind
  values: {pick: choice, closed: yes_no, word: short}
images_are: base64
"""


def own(folder):
    """A benchmark that a YAML file describes, with its pictures in base64, up to six of them in one item: the file."""
    pictures = [[base64.b64encode(png(150 + 10 * n + k, (40, 40))).decode() for k in range((6, 1, 2)[n])] for n in range(ITEMS)]
    rows = [
        {"kind": "pick", "options": ["effusion", "nodule", "nothing"], "answer": "B"},
        {"kind": "closed", "options": None, "answer": "yes"},
        {"kind": "word", "options": None, "answer": "effusion"},
    ]
    more = [{"case": f"w{n}", "question": f"Ward {n}, what is seen?", "pictures": pictures[n], "part": "chest"} for n in range(ITEMS)]
    write_jsonl(folder / "rows.jsonl", [one | two for one, two in zip(rows, more, strict=True)])
    (folder / "ward_round.yaml").write_text(OWN)
    return folder / "ward_round.yaml"


MAKERS = {name.removeprefix("of_"): make for name, make in dict(globals()).items() if name.startswith("of_")}


def write_all(folder):
    """Data folders by task."""
    for name, make in MAKERS.items():
        make(folder / name)
    return {name: folder / name for name in MAKERS}
