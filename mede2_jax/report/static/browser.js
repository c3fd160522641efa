// The browser of items: filters, the list, one item, and the keyboard.
"use strict";

(() => {
  const { make, load, decode, SYMBOLS, WORDS } = Mede2;
  const find = (id) => document.getElementById(id);
  const KINDS = ["correct", "wrong", "unparsed", "cut", "refused", "failed"];
  let boards = [];
  let board = null;
  let place = -1;
  let list = null;
  let open = false; // whether thoughts are
  let item = null;
  let asked = 0; // the newest filtering; older ones stop
  const lower = new Map(); // questions of a board, in small letters

  const option = (value, text) => make("option", { value }, text);
  const fill = (select, pairs) => select.replaceChildren(...pairs.map(([value, text]) => option(value, text)));

  async function chooseBoard(number) {
    place = number;
    board = await load(`board-${number}`);
    find("board").value = String(number);
    const names = board.models.map((model, at) => [String(at), model]);
    fill(find("of"), [["", "any model"], ...names]);
    fill(find("first"), names);
    fill(find("second"), names);
    find("second").value = String(Math.min(1, names.length - 1));
    find("how").value = "";
    find("differ").hidden = names.length < 2;
    find("heads").replaceChildren(make("span", { className: "id" }, "item"), ...board.models.map((model) => make("span", { className: "outcome", title: model }, model)));
    drawOutcomes();
    drawGroups();
  }

  function drawOutcomes() {
    const counts = Object.fromEntries(KINDS.map((kind) => [kind, 0]));
    for (const codes of board.codes) for (const code of codes) for (const letter of code) count(decode(letter));
    function count({ outcome, finish }) {
      counts[outcome] += 1;
      if (finish !== "stop") counts[finish] += 1;
    }
    const boxes = KINDS.filter((kind) => counts[kind]).map((kind) => {
      const box = make("input", { type: "checkbox", value: kind, onchange: filter });
      return make("label", { className: "box" }, box, ` ${SYMBOLS[kind]} ${WORDS[kind]} `, make("span", { className: "of" }, counts[kind].toLocaleString("en")));
    });
    find("outcomes").replaceChildren(make("legend", {}, "that are"), ...boxes);
  }

  function drawGroups() {
    const parts = Object.entries(board.groups).map(([name, group]) => {
      const select = make("select", { onchange: filter });
      select.dataset.group = name;
      fill(select, [["", "all"], ...group.values.map((value, at) => [String(at), value || "(none)"])]);
      return make("label", {}, `${name.replaceAll("_", " ")} `, select);
    });
    find("groups").replaceChildren(...parts);
  }

  const share = (code) => (code ? [...code].filter((letter) => decode(letter).outcome === "correct").length / code.length : null);

  // Whether an item passes all filters but the text.
  function passes() {
    const kinds = new Set([...find("outcomes").querySelectorAll("input:checked")].map((box) => box.value));
    const models = find("of").value === "" ? board.models.map((_, at) => at) : [Number(find("of").value)];
    const [first, second, how] = [Number(find("first").value), Number(find("second").value), find("how").value];
    const groups = [...find("groups").querySelectorAll("select")].filter((select) => select.value !== "");
    const wanted = groups.map((select) => [board.groups[select.dataset.group].of, Number(select.value)]);
    return (number) => {
      if (wanted.some(([of, value]) => of[number] !== value)) return false;
      if (kinds.size) {
        const letters = models.flatMap((at) => [...board.codes[at][number]]);
        if (!letters.some((letter) => kinds.has(decode(letter).outcome) || kinds.has(decode(letter).finish))) return false;
      }
      if (!how) return true;
      const [one, other] = [share(board.codes[first][number]), share(board.codes[second][number])];
      if (one === null || other === null) return false;
      return how === "differ" ? one !== other : how === "gain" ? other > one : one > other;
    };
  }

  function show(numbers, more = "") {
    list.set(board, numbers);
    if (!numbers.length) find("item").replaceChildren();
    find("count").textContent = `${numbers.length.toLocaleString("en")} of ${board.ids.length.toLocaleString("en")} items${more}`;
  }

  async function filter() {
    const mine = (asked += 1);
    const query = find("query").value.trim().toLowerCase();
    const kept = board.ids.map((_, number) => number).filter(passes());
    if (!query) return show(kept);
    const questions = await inQuestions();
    if (mine !== asked) return;
    const found = new Set(kept.filter((number) => board.ids[number].toLowerCase().includes(query) || questions[number].includes(query)));
    const sorted = () => kept.filter((number) => found.has(number));
    if (find("where").value === "questions") return show(sorted());
    const pieces = board.pieces;
    for (let at = 0; at < pieces.length; at += 1) {
      const items = await load(`items-${place}-${at}`, false);
      if (mine !== asked) return;
      const wanted = new Set(kept);
      items.forEach((one, offset) => {
        if (wanted.has(pieces[at] + offset) && said(one).includes(query)) found.add(pieces[at] + offset);
      });
      if (at % 8 === 7) show(sorted(), `, replies searched ${at + 1} of ${pieces.length} parts`);
    }
    show(sorted());
  }

  async function inQuestions() {
    if (!lower.has(place)) lower.set(place, (await load(`texts-${place}`, false)).map((text) => text.toLowerCase()));
    return lower.get(place);
  }

  const said = (one) => one.samples.flat().map((sample) => (sample.reply || []).map(([, text]) => text).join("\n")).join("\n").toLowerCase();

  async function showNumber(number, byHand) {
    const at = board.pieces.findLastIndex((first) => first <= number);
    const target = find("item");
    const hash = `#item=${place},${encodeURIComponent(board.ids[number])}`;
    if (byHand && location.hash !== hash) history.replaceState(null, "", hash);
    const [mine, of] = [number, board];
    try {
      const items = await load(`items-${place}-${at}`);
      if (board !== of || list.items[list.chosen] !== mine) return;
      item = Mede2.showItem(target, board, items[number - board.pieces[at]], () => open);
      target.scrollTop = 0;
    } catch (error) {
      target.replaceChildren(make("p", { className: "fault" }, String(error.message)));
    }
  }

  function clear() {
    find("query").value = "";
    find("how").value = "";
    find("of").value = "";
    for (const box of find("outcomes").querySelectorAll("input")) box.checked = false;
    for (const select of find("groups").querySelectorAll("select")) select.value = "";
    filter();
  }

  function toggleThoughts() {
    open = !open;
    for (const details of find("item").querySelectorAll("details.thought")) details.open = open;
  }

  const KEYS = {
    j: () => list.move(1),
    k: () => list.move(-1),
    n: () => item && item.step(1),
    p: () => item && item.step(-1),
    t: toggleThoughts,
    "/": () => find("query").focus(),
  };

  function key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const target = event.target;
    const inItems = target === document.body || find("items").contains(target);
    const types = target.matches("input:not([type=checkbox]), select, textarea");
    if (event.key === "Escape" && inItems) return find("list").focus();
    if (event.key === "Enter" && target === find("query")) return list.element.focus();
    if (event.key === "Enter" && target === find("list")) return find("item").focus();
    if (inItems && !types && event.key in KEYS) {
      event.preventDefault();
      KEYS[event.key]();
    }
  }

  async function follow() {
    const match = /^#item=(\d+),(.*)$/.exec(location.hash);
    if (!match || !boards[Number(match[1])]) return;
    if (Number(match[1]) !== place) await chooseBoard(Number(match[1]));
    let id = match[2];
    try {
      id = decodeURIComponent(id);
    } catch {
      return;
    }
    const number = board.ids.indexOf(id);
    if (number < 0) return;
    clear();
    list.show(number);
    find("items").scrollIntoView();
  }

  // What is folded is printed unfolded, and folded again.
  function unfold() {
    const folded = [...document.querySelectorAll("details:not([open])")];
    for (const details of folded) details.open = true;
    addEventListener("afterprint", () => folded.forEach((details) => { details.open = false; }), { once: true });
  }

  async function start() {
    addEventListener("beforeprint", unfold);
    for (const details of document.querySelectorAll("article.case details.thought")) details.open = false; // open only where no script can open them
    if (!find("browser")) return; // a report without scores
    boards = (await load("index")).boards;
    list = new Mede2.List(find("list"), showNumber);
    fill(find("board"), boards.map((name, at) => [String(at), name]));
    find("browser").hidden = false;
    find("more").open = !matchMedia("(max-width: 40rem)").matches;
    await chooseBoard(0);
    find("board").onchange = async () => {
      await chooseBoard(Number(find("board").value));
      await filter();
      find("item").replaceChildren();
    };
    for (const id of ["of", "first", "second", "how", "where"]) find(id).onchange = filter;
    find("query").oninput = filter;
    find("clear").onclick = clear;
    document.addEventListener("keydown", key);
    addEventListener("hashchange", follow);
    await filter();
    if (location.hash.startsWith("#item=")) await follow();
    document.body.dataset.ready = "yes";
  }

  start().catch((error) => {
    find("browser").hidden = false;
    find("count").textContent = error.message;
  });
})();
