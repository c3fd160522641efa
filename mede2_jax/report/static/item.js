// One item: what was asked, with its images, and what each model replied to it.
"use strict";

Mede2.showItem = (() => {
  const { make, SYMBOLS, WORDS } = Mede2;
  const chosen = new Map(); // model -> number of its sample that is shown, kept from item to item

  function picture(image) {
    if (!image.src) return make("p", { className: "fault" }, `image ${image.name}: ${image.fault}`);
    const shown = make("img", { loading: "lazy", decoding: "async", src: image.src, width: image.w, height: image.h, alt: image.name });
    // The whole image, in its own size; what is inside the page cannot be gone to.
    const link = image.src.startsWith("data:") ? shown : make("a", { href: image.src, target: "_blank", rel: "noopener" }, shown);
    return make("figure", { className: "picture" }, link);
  }

  function turn(one, images) {
    const body = make("div", { className: "said" });
    let pictures = null; // those that follow one another stand side by side
    for (const piece of one.pieces) {
      if (typeof piece !== "number") {
        body.append(piece);
        pictures = null;
        continue;
      }
      if (!pictures) body.append((pictures = make("div", { className: "pictures" })));
      pictures.append(picture(images[piece]));
    }
    if (one.role === "user") return body;
    return make("details", {}, make("summary", {}, one.role === "system" ? "system turn" : `${one.role}'s turn`), body);
  }

  function answer(item) {
    if (!item.answer) return make("p", { className: "fault" }, "the right answer is not at hand");
    const line = make("p", { className: "answer" }, make("span", { className: "mark", ariaHidden: "true" }, "✓"), " right answer: ");
    item.answer.forEach((one, place) => {
      if (place) line.append(" or ");
      line.append(make("b", {}, one), one in item.options ? ` ${item.options[one]}` : "");
    });
    return line;
  }

  function groups(item) {
    const names = Object.entries(item.groups).filter(([, value]) => value);
    if (!names.length) return null;
    const list = make("p", { className: "groups" });
    for (const [name, value] of names) list.append(make("span", { className: "chip" }, `${name.replaceAll("_", " ")}: ${value}`), " ");
    return list;
  }

  function verdict(sample) {
    const line = make("p", { className: `verdict ${sample.outcome}` });
    line.append(make("span", { className: "mark", ariaHidden: "true" }, SYMBOLS[sample.outcome]), " ", make("strong", {}, WORDS[sample.outcome]));
    if (sample.read !== null) line.append(" · read ", make("b", {}, sample.read));
    line.append(` · by ${sample.step}`);
    if (sample.finish !== "stop") line.append(` · ${SYMBOLS[sample.finish]} ${WORDS[sample.finish]}`);
    if (sample.order) line.append(` · options shown as ${[...sample.order].join(" ")}`);
    if (sample.rule) line.append(` · the rule alone: ${WORDS[sample.rule] || sample.rule}`);
    if (sample.top5 !== undefined) line.append(` · among the first five: ${sample.top5 ? "yes" : "no"}`);
    if (sample.tokens) line.append(` · ${sample.tokens.toLocaleString("en")} tokens`);
    return line;
  }

  function reply(sample, thoughts) {
    const body = make("div", { className: "reply" });
    if (sample.before) {
      const before = make("details", { className: "before" }, make("summary", {}, "what came before"));
      for (const one of sample.before) before.append(make("p", { className: "role" }, one.role), make("div", { className: "said" }, one.pieces.map((piece) => (typeof piece === "number" ? `[image ${piece + 1}]` : piece)).join("")));
      body.append(before);
    }
    if (sample.finish === "failed") body.append(make("p", { className: "fault" }, "no reply came"));
    else if (!sample.reply) body.append(make("p", { className: "fault" }, "the reply is not at hand"));
    else if (!sample.reply.length) body.append(make("p", { className: "fault" }, "an empty reply"));
    for (const [kind, said] of sample.reply || []) {
      const text = make("div", { className: "said" }, said.trim());
      if (kind !== "think") body.append(text);
      else {
        const summary = make("summary", {}, `thought, ${said.length.toLocaleString("en")} characters`);
        body.append(make("details", { className: "thought", open: thoughts() }, summary, text));
      }
    }
    return body;
  }

  // The samples of a model, one of which is shown.
  function side(model, samples, thoughts) {
    const body = make("section", { className: "side", ariaLabel: model }, make("h4", {}, model));
    if (!samples.length) {
      body.append(make("p", { className: "fault" }, "not asked this item"));
      return body;
    }
    const place = () => Math.min(chosen.get(model) || 0, samples.length - 1);
    const shown = make("div");
    const buttons = samples.map((sample, at) =>
      make("button", { type: "button", className: `sample ${sample.outcome}`, onclick: () => choose(at) }, `${SYMBOLS[sample.outcome]} ${sample.sample + 1}`),
    );
    buttons.forEach((button, at) => button.setAttribute("aria-label", `sample ${samples[at].sample + 1}: ${WORDS[samples[at].outcome]}`));
    function choose(at) {
      chosen.set(model, at);
      buttons.forEach((button, place) => button.setAttribute("aria-pressed", String(place === at)));
      shown.replaceChildren(verdict(samples[at]), reply(samples[at], thoughts));
    }
    if (samples.length > 1) {
      const right = samples.filter((sample) => sample.outcome === "correct").length;
      body.append(make("div", { className: "samples", role: "group", ariaLabel: `samples of ${model}` }, ...buttons), make("p", { className: "of" }, `${right} of ${samples.length} right`));
    }
    body.append(shown);
    choose(place());
    body.step = (by) => choose((place() + by + samples.length) % samples.length);
    return body;
  }

  // Draws an item into `target`; returns what the keyboard needs.
  return function showItem(target, board, item, thoughts) {
    const sides = item.samples.map((samples, place) => side(board.models[place], samples, thoughts));
    const question = make("div", { className: "question" });
    for (const one of item.turns) question.append(turn(one, item.images));
    if (!item.turns.length) question.append(make("p", { className: "fault" }, "the question is not at hand"));
    const heading = make("h3", {}, item.id);
    target.replaceChildren(...[heading, groups(item), question, answer(item), make("div", { className: "sides" }, ...sides)].filter(Boolean));
    target.setAttribute("aria-label", `Item ${item.id}`);
    return { step: (by) => sides.forEach((one) => one.step && one.step(by)) };
  };
})();
