(() => {
  const tools = document.getElementById("gallery-tools");
  if (!tools) return;
  const step = 12;
  const { models, protocols, medians, failure } = page.data;
  const list = document.getElementById("cases");
  const cases = [...list.children].map((node, index) => ({
    node,
    index,
    protocol: node.dataset.protocol,
    lowest: Number(node.dataset.lowest),
    ious: node.dataset.ious.split(",").map((text) => (text === "" ? null : Number(text))),
  }));
  const state = {
    protocol: protocols[0],
    order: tools.dataset.failures === "yes" ? "failures" : "worst",
    model: -1,
    whole: false,
    limit: step,
  };

  const iou = (each) => (state.model < 0 ? each.lowest : each.ious[state.model]);
  const middle = () => {
    const row = medians[protocols.indexOf(state.protocol)];
    const known = row.filter((value) => value !== null);
    return state.model < 0 ? Math.min(...known) : row[state.model];
  };
  const spread = (each) => {
    const known = each.ious.filter((value) => value !== null);
    return Math.max(...known) - Math.min(...known);
  };
  const ranks = {
    worst: (each) => iou(each),
    failures: (each) => iou(each),
    best: (each) => -iou(each),
    median: (each) => Math.abs(iou(each) - middle()),
    differ: (each) => -spread(each),
  };

  const count = document.createElement("p");
  count.className = "muted";
  count.id = "gallery-count";
  const more = page.button("Show more", () => {
    state.limit += step;
    show();
  });

  const show = () => {
    const rank = ranks[state.order];
    const found = cases.filter((each) => each.protocol === state.protocol && iou(each) !== null);
    const failed = (each) => iou(each) < failure;
    found.sort((a, b) => {
      if (state.order === "failures" && failed(a) !== failed(b)) return failed(b) - failed(a);
      return rank(a) - rank(b) || a.index - b.index;
    });
    const shown = found.slice(0, state.limit);
    const keep = new Set(shown);
    for (const each of cases) each.node.hidden = !keep.has(each);
    list.append(...shown.map((each) => each.node));
    more.hidden = shown.length === found.length;
    count.textContent = `${shown.length} of ${found.length} cases, `
      + `${found.filter(failed).length} of them failures`;
    page.say(count.textContent);
  };
  const set = (name, value) => {
    state[name] = value;
    state.limit = step;
    show();
  };

  const [byProtocol] = page.select("Protocol", protocols.map((name) => [name, name]),
    (value) => set("protocol", value));
  const [byOrder, order] = page.select("Order", [
    ["worst", "worst first"], ["failures", "failures first"], ["median", "around the median"],
    ["best", "best first"], ["differ", "where models differ most"],
  ], (value) => set("order", value));
  order.value = state.order;
  const [byModel] = page.select("IoU of", [
    [-1, "the worst model"], ...models.map((name, index) => [index, name]),
  ], (value) => set("model", Number(value)));
  const zoom = page.button("Whole images", () => {
    state.whole = !state.whole;
    zoom.setAttribute("aria-pressed", String(state.whole));
    for (const pane of list.querySelectorAll(".pane")) {
      pane.setAttribute("viewBox", state.whole ? pane.dataset.whole : pane.dataset.crop);
    }
  });
  zoom.setAttribute("aria-pressed", "false");
  tools.append(byProtocol, byOrder, byModel, zoom);
  tools.after(count);
  document.getElementById("gallery-more").append(more);
  show();
})();
