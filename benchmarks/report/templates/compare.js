// Two models on the same objects: their difference, a scatter of their IoU, and lists.
(() => {
  const place = document.getElementById("compare-view");
  if (!place) return;
  const { datasets, pairs } = page.data.pairs;
  const longest = 8;
  const [equal, least] = [0.01, 0.0005]; // differences of IoU
  const make = (tag, name, text = "") => {
    const node = document.createElement(tag);
    if (name) node.className = name;
    node.textContent = text;
    return node;
  };
  const state = { a: "", b: "" };
  const change = (values) => {
    Object.assign(state, values);
    page.remember({ compare: [state.a, state.b] });
    show();
  };
  // A model that is chosen on both sides changes places with the other one.
  const choose = (side, value) => {
    const other = side === "a" ? "b" : "a";
    change({ [side]: value, ...(state[other] === value ? { [other]: state[side] } : {}) });
  };
  const [frameA, menuA] = page.select("A", [], (value) => choose("a", value));
  const [frameB, menuB] = page.select("B", [], (value) => choose("b", value));
  const swap = page.button("Swap", () => change({ a: state.b, b: state.a }), "Swap A and B");
  const bar = make("div", "chooser");
  bar.append(frameA, frameB, swap);
  const verdict = make("p", "verdict");
  verdict.id = "compare-verdict";
  const chart = make("div", "chart");
  chart.setAttribute("role", "img");
  chart.tabIndex = 0;
  const lists = make("div", "lists");
  const detail = make("p", "detail muted", "Click a dot or a line for its object.");
  detail.id = "compare-detail";
  detail.setAttribute("role", "status");
  const pair = make("div", "pair");
  pair.append(chart, lists);
  place.append(bar, verdict, detail, pair);

  const iou = (value) => value.toFixed(3);
  const values = (model) => new Float32Array(Uint8Array.from(
    atob(datasets[page.selection.dataset].ious[page.selection.protocol][model]), (each) => each.charCodeAt(0),
  ).buffer);
  const describe = (each) => `image ${each.image}, object ${each.annotation}`
    + `${each.category ? `, ${each.category}` : ""}, ${each.area.toLocaleString("en")} px: `
    + `${state.a} ${iou(each.a)}, ${state.b} ${iou(each.b)}`;
  // `cases` are the objects that the arrow keys of the lightbox go through.
  const open = (each, cases) => {
    detail.textContent = `Object: ${describe(each)}.`;
    const { dataset, protocol } = page.selection;
    const stored = dataset === page.data.masked && page.data.gallery.protocols.includes(protocol);
    if (stored && openCase(each.image, each.annotation, state.a, state.b, protocol, cases.map((one) => [one.image, one.annotation]))) return;
    const lost = stored ? [state.a, state.b].filter((name) => !page.data.gallery.models.includes(name)) : [];
    detail.textContent += ` No masks of ${lost.join(" and ") || "it"} are stored.`;
  };

  // Objects that both models answered.
  const objects = () => {
    const data = datasets[page.selection.dataset];
    const [ofA, ofB] = [values(state.a), values(state.b)];
    const found = [];
    data.image.forEach((image, index) => {
      const [a, b] = [ofA[index], ofB[index]];
      if (Number.isNaN(a - b)) return;
      found.push({
        image, annotation: data.annotation[index], area: data.area[index],
        category: data.categories[data.category[index]], a, b,
      });
    });
    return found;
  };

  const byDifference = (found) => [...found].sort((x, y) => (y.a - y.b) - (x.a - x.b));

  // The verdict and its figures, which do not depend on the order of the models.
  const sentence = () => {
    const key = `${page.selection.dataset}|${page.selection.protocol}`;
    const row = pairs[key].find(([a, b]) => [a, b].includes(state.a) && [a, b].includes(state.b));
    return row ? [row[2], row[3] + row[4]] : ["No prompt was answered by both.", ""];
  };

  const list = (title, cases, fits) => {
    const rows = cases.slice(0, longest).filter(fits);
    const block = make("div");
    const items = make("ol", "cases-list");
    for (const each of rows) {
      const item = make("li");
      const difference = each.a - each.b;
      item.append(page.button(
        `${difference > 0 ? "+" : "−"}${iou(Math.abs(difference))}  ${each.category || "object"} ${each.annotation}, image ${each.image}`,
        () => open(each, cases), `Show ${describe(each)}`,
      ));
      items.append(item);
    }
    block.append(make("h3", "", title), rows.length ? items : make("p", "muted", "None."));
    return block;
  };

  let view = null;
  let drawing = 0;
  const draw = async (found) => {
    const turn = ++drawing;
    const spec = structuredClone(page.data.scatter);
    spec.datasets.pairs = found.map((each, index) => ({
      a: each.a, b: each.b, index, tip: describe(each),
    }));
    for (const layer of spec.layer) {
      layer.encoding.x.title = `IoU of ${page.data.names[state.b]} (B)`;
      layer.encoding.y.title = `IoU of ${page.data.names[state.a]} (A)`;
    }
    spec.description = `IoU of ${state.a} against ${state.b} for ${found.length} objects`;
    chart.setAttribute("aria-label", spec.description);
    view?.finalize();
    const made = await page.embed(chart, spec);
    if (turn !== drawing) return made.view.finalize();
    view = made.view;
    chart.tabIndex = 0;
    view.addEventListener("click", (_, item) => {
      if (item?.datum?.index !== undefined) open(found[item.datum.index], byDifference(found));
    });
    chart.dataset.drawn = `${state.a}|${state.b}`;
    return undefined;
  };

  let waiting = null;
  const show = () => {
    const models = Object.keys(datasets[page.selection.dataset]?.ious[page.selection.protocol] ?? {})
      .filter(page.isShown);
    const enough = models.length > 1;
    for (const each of [bar, pair]) each.hidden = !enough;
    if (!enough) {
      verdict.textContent = "Fewer than two of the models shown have stored objects for this selection.";
      detail.textContent = "";
      return;
    }
    const best = (list, other) => list.find((each) => each !== other);
    const means = Object.fromEntries(models.map((model) => {
      const known = values(model).filter((value) => !Number.isNaN(value));
      return [model, known.reduce((sum, value) => sum + value, 0) / (known.length || 1)];
    }));
    const ranked = [...models].sort((a, b) => means[b] - means[a]);
    // The first model is the recommended one.
    const order = JSON.parse(document.querySelector(".answer:not([hidden])")?.dataset.order ?? "[]");
    const known = order.filter((each) => models.includes(each));
    if (!models.includes(state.a)) state.a = best([...known, ...ranked], state.b);
    if (!models.includes(state.b) || state.a === state.b) {
      // The most accurate one that differs visibly, if there is one.
      state.b = ranked.find((each) => means[state.a] - means[each] > equal) ?? best(ranked, state.a);
    }
    for (const [menu, value] of [[menuA, state.a], [menuB, state.b]]) {
      menu.replaceChildren(...models.map((name) => new Option(name)));
      menu.value = value;
    }
    const found = objects();
    const [first, second] = sentence();
    verdict.textContent = first;
    detail.textContent = `${second} Click a dot or a line for its object.`;
    const ordered = byDifference(found);
    lists.replaceChildren(
      list(`Higher IoU with ${state.a}`, ordered, (each) => each.a - each.b >= least),
      list(`Higher IoU with ${state.b}`, [...ordered].reverse(), (each) => each.b - each.a >= least),
    );
    waiting = found;
    if (seen) draw(found);
  };
  let seen = false;
  new IntersectionObserver((entries, watcher) => {
    if (!entries.some((each) => each.isIntersecting)) return;
    seen = true;
    watcher.disconnect();
    if (waiting) draw(waiting);
  }, { rootMargin: "400px" }).observe(place);
  chart.addEventListener("keydown", (event) => page.onChartKey(chart, event));
  document.documentElement.addEventListener("selectionchange", () => {
    const [a, b] = page.recall("compare");
    Object.assign(state, { a: a ?? state.a, b: b ?? state.b });
    show();
  });
  document.documentElement.addEventListener("themechange", () => { if (view) draw(waiting); });
})();
