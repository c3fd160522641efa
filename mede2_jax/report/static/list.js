// The list of items: only the rows that are seen are there. One is chosen, which the keyboard moves.
"use strict";

Mede2.List = class {
  static ROW = 44; // pixels, as in report.css

  constructor(element, onChoose) {
    this.element = element;
    this.onChoose = onChoose;
    this.items = [];
    this.chosen = -1;
    this.space = Mede2.make("div", { className: "space" });
    this.rows = Mede2.make("div", { className: "rows" });
    element.replaceChildren(this.space, this.rows);
    element.addEventListener("scroll", () => this.draw());
    element.addEventListener("keydown", (event) => this.key(event));
    element.addEventListener("click", (event) => {
      const row = event.target.closest("[role=option]");
      if (row) this.choose(Number(row.dataset.place));
    });
    new ResizeObserver(() => this.draw()).observe(element);
  }

  // `items` are numbers of the board's items; `board` says what stands in their rows.
  set(board, items) {
    const before = this.items[this.chosen];
    this.board = board;
    this.items = items;
    this.space.style.height = `${items.length * Mede2.List.ROW}px`;
    const kept = items.indexOf(before);
    this.chosen = kept < 0 && items.length ? 0 : kept;
    this.drawn = null;
    this.draw();
    if (kept < 0 && items.length) this.onChoose(items[0], false);
  }

  show(number) {
    const place = this.items.indexOf(number);
    if (place >= 0) this.choose(place);
    return place >= 0;
  }

  choose(place) {
    if (!this.items.length) return;
    this.chosen = Math.max(0, Math.min(place, this.items.length - 1));
    const top = this.chosen * Mede2.List.ROW;
    const { scrollTop, clientHeight } = this.element;
    if (top < scrollTop) this.element.scrollTop = top;
    else if (top + Mede2.List.ROW > scrollTop + clientHeight) this.element.scrollTop = top + Mede2.List.ROW - clientHeight;
    this.drawn = null;
    this.draw();
    this.onChoose(this.items[this.chosen], true);
  }

  move(by) {
    this.choose(this.chosen < 0 ? 0 : this.chosen + by);
  }

  key(event) {
    const page = Math.max(1, Math.floor(this.element.clientHeight / Mede2.List.ROW) - 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (!(event.key in steps) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const step = steps[event.key];
    if (Number.isFinite(step)) this.move(step);
    else this.choose(step < 0 ? 0 : this.items.length - 1);
  }

  draw() {
    const { scrollTop, clientHeight } = this.element;
    const first = Math.max(0, Math.floor(scrollTop / Mede2.List.ROW) - 4);
    const last = Math.min(this.items.length, Math.ceil((scrollTop + clientHeight) / Mede2.List.ROW) + 4);
    const name = `${first}-${last}`;
    if (this.drawn === name) return;
    this.drawn = name;
    this.rows.style.transform = `translateY(${first * Mede2.List.ROW}px)`;
    this.rows.replaceChildren(...this.items.slice(first, last).map((number, at) => this.row(number, first + at)));
    const active = this.chosen >= first && this.chosen < last ? `row-${this.chosen}` : "";
    if (active) this.element.setAttribute("aria-activedescendant", active);
    else this.element.removeAttribute("aria-activedescendant");
  }

  row(number, place) {
    const row = Mede2.make("div", { id: `row-${place}`, className: "row", role: "option" });
    row.dataset.place = place;
    row.setAttribute("aria-selected", String(place === this.chosen));
    row.setAttribute("aria-setsize", this.items.length);
    row.setAttribute("aria-posinset", place + 1);
    row.append(Mede2.make("span", { className: "id" }, this.board.ids[number]));
    this.board.models.forEach((model, at) => row.append(this.mark(model, this.board.codes[at][number])));
    return row;
  }

  // What became of a model's samples: a symbol and a word for one, a share for several.
  mark(model, code) {
    const { make, decode, SYMBOLS, WORDS } = Mede2;
    if (!code) return make("span", { className: "outcome none", title: `${model}: not asked` }, "–");
    const samples = [...code].map(decode);
    if (samples.length > 1) {
      const right = samples.filter((sample) => sample.outcome === "correct").length;
      const kind = right === samples.length ? "correct" : right ? "some" : "wrong";
      return make("span", { className: `outcome ${kind}`, title: `${model}: ${right} of ${samples.length} right` }, `${right}/${samples.length}`);
    }
    const [{ outcome, finish }] = samples;
    const end = finish === "stop" ? "" : ` ${SYMBOLS[finish]}`;
    const word = make("span", { className: "word" }, ` ${end && outcome === "unparsed" ? WORDS[finish] : WORDS[outcome]}`);
    return make("span", { className: `outcome ${outcome}`, title: `${model}: ${WORDS[outcome]}${finish === "stop" ? "" : `, ${WORDS[finish]}`}` }, SYMBOLS[outcome] + end, word);
  }
};
