// The items' data: pieces of JSON beside the page, or inside it, each loaded when it is asked for. Nothing of it is ever markup.
"use strict";

const Mede2 = (() => {
  const KEPT = 12; // pieces that stay in memory
  const waiting = new Map();
  const kept = new Map();

  // Each data file calls this with its name and value.
  function take(name, value) {
    const resolve = waiting.get(name);
    waiting.delete(name);
    if (resolve) resolve(value);
  }

  function inside(name) {
    for (const block of document.querySelectorAll('script[type="application/json"]')) {
      if (block.dataset.name === name) return JSON.parse(block.textContent);
    }
    return undefined;
  }

  function fetchPiece(name) {
    const there = inside(name);
    if (there !== undefined) return Promise.resolve(there);
    return new Promise((resolve, reject) => {
      const script = document.createElement("script");
      waiting.set(name, resolve);
      script.src = `data/${name}.js`;
      script.onload = () => script.remove();
      script.onerror = () => {
        waiting.delete(name);
        script.remove();
        reject(new Error(`data/${name}.js could not be read`));
      };
      document.head.append(script);
    });
  }

  // A piece by its name; the last ones stay, unless the caller only passes through.
  function load(name, keep = true) {
    if (kept.has(name)) {
      const promise = kept.get(name);
      kept.delete(name);
      kept.set(name, promise);
      return promise;
    }
    const promise = fetchPiece(name);
    if (keep) {
      kept.set(name, promise);
      promise.catch(() => kept.delete(name));
      while (kept.size > KEPT) kept.delete(kept.keys().next().value);
    }
    return promise;
  }

  // An element with its properties and children; texts become text.
  function make(tag, properties = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (value === undefined || value === null) continue;
      if (name in element && name !== "list") element[name] = value;
      else element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  }

  const OUTCOMES = ["correct", "wrong", "unparsed"];
  const FINISHES = ["stop", "cut", "refused", "failed"];
  const SYMBOLS = { correct: "✓", wrong: "✗", unparsed: "?", cut: "✂", refused: "⊘", failed: "!" };
  const WORDS = { correct: "right", wrong: "wrong", unparsed: "nothing read", cut: "cut", refused: "refused", failed: "failed" };

  // A letter of an item's code stands for a sample's outcome and finish.
  function decode(letter) {
    const number = letter.charCodeAt(0) - 97;
    return { outcome: OUTCOMES[number >> 2], finish: FINISHES[number & 3] };
  }

  return { take, load, make, decode, OUTCOMES, FINISHES, SYMBOLS, WORDS };
})();

function mede2(name, value) {
  Mede2.take(name, value);
}
