// The section with the masks: a small picture for each prompt, filters, and order.
(() => {
  if (!masks) return;
  const step = 24;
  const { models, protocols, medians, failure } = masks;
  const tools = document.getElementById("gallery-tools");
  const place = document.getElementById("cases");
  const usual = { order: masks.failures_first ? "failures" : "worst", category: "", size: "", from: 0, to: 1 };
  const state = { ...usual, protocol: protocols[0], a: 0, b: Math.min(1, models.length - 1), limit: step };
  const keys = document.querySelector("#gallery .keys");

  const fields = {};
  const relative = ["better", "worse"]; // orders that need both models
  const isShown = (model) => models[model] !== undefined && page.isShown(models[model]);
  const anyShown = () => [...models.keys()].some(isShown);
  const iou = (each, model) => each.masks[model]?.[0] ?? null;
  const known = (each) => each.masks.filter(Boolean).map(([value]) => value);
  const failed = (each) => Math.min(...known(each)) < failure;
  const middle = () => medians[protocols.indexOf(state.protocol)][state.a];
  const ranks = {
    worst: (each) => iou(each, state.a),
    failures: (each) => 2 * !failed(each) + iou(each, state.a),
    best: (each) => -iou(each, state.a),
    median: (each) => Math.abs(iou(each, state.a) - middle()),
    better: (each) => (iou(each, state.b) ?? NaN) - iou(each, state.a),
    worse: (each) => iou(each, state.a) - (iou(each, state.b) ?? NaN),
  };

  const found = () => {
    if (!anyShown()) return [];
    const rank = ranks[state.order];
    return masks.cases.filter((each) => {
      const own = iou(each, state.a);
      return each.protocol === state.protocol && own !== null && own >= state.from && own <= state.to
        && (!state.category || each.category === state.category)
        && (!state.size || masks.size(each) === state.size) && !Number.isNaN(rank(each));
    }).sort((one, other) => rank(one) - rank(other) || one.index - other.index);
  };

  const count = document.createElement("p");
  count.className = "muted";
  count.id = "gallery-count";
  const more = page.button("Show more", () => { state.limit += step; show(); });

  const watcher = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      watcher.unobserve(target);
      const canvas = target.querySelector("canvas");
      const width = canvas.getBoundingClientRect().width;
      masks.draw(canvas, target.shown, [state.a, state.a], { width, mode: "errors", whole: false })
        .then(() => { canvas.style.width = ""; canvas.dataset.drawn = ""; });
    }
  }, { rootMargin: "200px" });

  const card = (each, cases) => {
    const made = document.createElement("a");
    made.className = "case";
    made.shown = each;
    made.href = lightbox.link(each, state.a, state.b);
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [4, Math.round((4 * each.crop[3]) / each.crop[2])];
    const line = (text, name) => {
      const span = document.createElement("span");
      if (name) span.className = name;
      span.textContent = text;
      made.append(span);
    };
    made.append(canvas);
    line(each.category || masks.images[each.image].name);
    for (const model of new Set([state.a, state.b])) {
      line(`${models[model]}: ${masks.score(each, model)}`, iou(each, model) < failure && iou(each, model) !== null ? "bad" : "");
    }
    made.dataset.protocol = each.protocol;
    made.dataset.iou = iou(each, state.a);
    made.setAttribute("aria-label", `${masks.title(each)}: ${[...new Set([state.a, state.b])]
      .map((model) => `${models[model]} ${masks.score(each, model)}`).join(", ")}`);
    made.addEventListener("click", (event) => {
      if (event.button || event.metaKey || event.ctrlKey || event.shiftKey) return;
      event.preventDefault();
      lightbox.open(each, { a: state.a, b: state.b }, cases);
    });
    watcher.observe(made);
    return made;
  };

  const show = () => {
    const cases = found();
    const shown = cases.slice(0, state.limit);
    lightbox.protocol = state.protocol;
    place.replaceChildren(...shown.map((each) => card(each, cases)));
    more.hidden = shown.length === cases.length;
    const n = cases.filter((each) => iou(each, state.a) < failure).length;
    const needed = relative.includes(state.order) ? [state.a, state.b] : [state.a];
    const without = needed.find((model) => !masks.measured(model, state.protocol));
    if (!anyShown()) count.textContent = "None of the models shown has stored masks.";
    else if (without !== undefined) count.textContent = `${models[without]} has no masks for prompts of ${state.protocol} here.`;
    else if (!cases.length) count.textContent = "No object fits.";
    else count.textContent = `${shown.length} of ${cases.length} objects are shown; ${models[state.a]} fails in ${n} of ${cases.length} (IoU below ${failure}).`;
    page.say(count.textContent);
  };
  const set = (name) => (value) => {
    const sides = ["a", "b"].includes(name);
    Object.assign(state, sides ? masks.choose(name, state, value) : { [name]: value });
    state.limit = step;
    page.remember(sides ? { model: [models[state.a], models[state.b]] } : { [name]: value === usual[name] ? "" : String(value) });
    for (const [own, field] of Object.entries(fields)) if (own === "a" || own === "b") field.value = state[own];
    show();
  };
  const select = (label, name, options) => {
    if (options.length < 2) return [];
    const numeric = typeof options[0][0] === "number";
    const [frame, made] = page.select(label, options, (value) => set(name)(numeric ? Number(value) : value));
    made.value = state[name];
    fields[name] = made;
    return [frame];
  };
  const number = (label, name) => {
    const frame = document.createElement("label");
    const input = document.createElement("input");
    Object.assign(input, { type: "number", min: 0, max: 1, step: 0.05, value: state[name] });
    input.addEventListener("input", () => {
      const value = input.valueAsNumber;
      set(name)(Number.isNaN(value) ? { from: 0, to: 1 }[name] : value);
    });
    fields[name] = input;
    frame.append(label, input);
    return frame;
  };

  const named = models.map((name, index) => [index, name]);
  const values = (of) => [...new Set(masks.cases.map(of))].filter(Boolean).sort();
  const categories = values((each) => each.category);
  const sizes = ["small", "medium", "large"].filter((each) => values(masks.size).includes(each));
  tools.append(
    ...select("Model A", "a", named),
    ...select("Model B", "b", named),
    ...select("Order", "order", [
      ["worst", "worst of A first"], ["failures", "failures of any model first"],
      ["median", "around the median of A"], ["best", "best of A first"],
      ...(models.length > 1 ? [["better", "A better than B"], ["worse", "A worse than B"]] : []),
    ]),
    ...select("Category", "category", [["", "all"], ...categories.map((name) => [name, name])]),
    ...select("Size", "size", [["", "all"], ...sizes.map((name) => [name, name])]),
    number("IoU of A from", "from"),
    number("to", "to"),
  );
  const scope = document.createElement("p");
  scope.id = "gallery-scope";
  const where = document.createElement("span");
  scope.append(where, page.button("Show them", () => (
    page.change({ dataset: page.data.masked, protocol: protocols[0] }))));
  tools.before(scope);
  tools.after(count);
  document.getElementById("gallery-more").append(more);
  // The two models of the answer: the recommended one, and the next in accuracy with other masks.
  const pair = () => {
    const order = JSON.parse(document.querySelector(".answer:not([hidden])")?.dataset.order ?? "[]");
    const usable = [...models.keys()].filter(isShown);
    const [a = usable[0] ?? 0, ...rest] = order.map((name) => models.indexOf(name)).filter(isShown);
    const differs = (b) => masks.cases.some((each) => each.protocol === state.protocol
      && iou(each, a) !== null && iou(each, b) !== null && Math.abs(iou(each, a) - iou(each, b)) > 0.01);
    const others = [...rest, ...usable].filter((index) => index !== a);
    return { a, b: others.find(differs) ?? others[0] ?? a };
  };
  // The masks follow the selection of the page, and their own part of the address.
  document.documentElement.addEventListener("selectionchange", () => {
    const { dataset, protocol } = page.selection;
    const stored = !dataset || (dataset === page.data.masked && protocols.includes(protocol));
    if (dataset && stored) state.protocol = protocol;
    scope.hidden = stored;
    count.hidden = !stored;
    for (const each of [tools, place, keys, more.parentElement]) each.hidden = !stored || !anyShown();
    where.textContent = `Masks are stored for ${page.data.masked}, prompts of ${protocols.join(", ")}, `
      + `not for ${dataset}, ${protocol}. `;
    const named = page.recall("model").map((name) => models.indexOf(name)).filter(isShown);
    for (const option of [...fields.a?.options ?? [], ...fields.b?.options ?? []]) option.disabled = !isShown(option.value);
    Object.assign(state, new Set(named).size === 2 ? { a: named[0], b: named[1] } : pair());
    // One model alone has no B.
    const alone = state.a === state.b;
    if (fields.b) fields.b.parentElement.hidden = alone;
    for (const option of fields.order.options) option.disabled = alone && relative.includes(option.value);
    for (const [name, value] of Object.entries(usual)) {
      const [given] = page.recall(name);
      state[name] = given === undefined ? value : typeof value === "number" ? Number(given) : given;
    }
    for (const [own, field] of Object.entries(fields)) {
      field.value = state[own];
      // A value that this page does not have.
      const lost = field.matches("select") && (field.selectedIndex < 0 || (own === "order" && field.selectedOptions[0].disabled));
      if (lost) field.value = state[own] = usual[own];
    }
    show();
  });
  lightbox.follow();
})();
