// The lightbox: one case in the size of the window, its masks by two models, and a link to it.
// `window.openCase(imageId, annotationId, modelA, modelB, protocol)` opens it, and returns false if
// there is no picture of this case or no mask of a model. The arrow keys go through `order`, pairs of
// image and annotation, if it is given.
const lightbox = (() => {
  window.openCase = () => false;
  if (!masks) return null;
  const state = { a: 0, b: Math.min(1, masks.models.length - 1), mode: "errors", whole: false, view: "A", split: 50 };
  let shown = null, list = [], drawing = 0;

  const make = (tag, name, ...children) => {
    const made = document.createElement(tag);
    if (name) made.className = name;
    made.append(...children);
    return made;
  };
  const box = make("dialog", "lightbox");
  const heading = make("h2");
  heading.id = "lightbox-title";
  box.setAttribute("aria-labelledby", heading.id);
  const count = make("span", "muted");
  count.setAttribute("role", "status");
  const canvas = make("canvas");
  canvas.setAttribute("role", "img");
  const stage = make("div", "stage", canvas);
  const scores = make("div", "scores");
  const slider = make("input", "slider");
  slider.type = "range";
  slider.setAttribute("aria-label", "Border between the masks of A and B");
  const set = (changes) => { Object.assign(state, changes); update(); };

  const models = masks.models.map((name, index) => [index, name]);
  const [byA, chooseA] = page.select("A", models, (value) => set(masks.choose("a", state, Number(value))));
  const [byB, chooseB] = page.select("B", models, (value) => set(masks.choose("b", state, Number(value))));
  const [byMode] = page.select("Show", [
    ["errors", "errors"], ["mask", "mask"], ["truth", "ground truth"], ["picture", "picture only"],
  ], (mode) => set({ mode }));
  const views = ["A", "B", "slider"].map((view) => page.button(
    view === "slider" ? "Slider" : view, () => set({ view }), view === "slider" ? "A and B with a slider" : `Mask of ${view}`,
  ));
  const whole = page.button("Whole image", () => set({ whole: !state.whole }));
  const copy = page.button("Copy link", async (button) => {
    const done = await page.copy(location.href);
    page.flash(button, done ? "Copied" : "The browser refused");
  });
  const step = (by) => {
    const at = list.indexOf(shown);
    if (list.length) show(list[(at + by + list.length) % list.length]);
  };
  const keys = document.querySelector("#gallery .keys").cloneNode(true);
  keys.hidden = false;
  box.append(
    make("div", "bar", heading, count,
      page.button("\u2190", () => step(-1), "Previous picture"), page.button("\u2192", () => step(1), "Next picture"),
      page.button("\u00d7", () => box.close(), "Close")),
    make("div", "bar", byA, ...(models.length > 1 ? [byB, ...views] : []), byMode, whole, copy),
    stage, slider, scores, keys,
  );
  document.body.append(box);

  // The state of the page's other parts is kept in the link.
  const hash = (each, a, b) => {
    const found = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
    for (const name of ["case", "a", "b"]) found.delete(name);
    if (each) {
      found.set("case", [each.image, each.annotation, each.protocol]);
      found.set("a", masks.models[a]);
      found.set("b", masks.models[b]);
    }
    return `#${found}`;
  };
  const link = (each, a = state.a, b = state.b) => hash(each, a, b);
  const replace = (text) => history.replaceState(
    history.state, "", text === "#" ? location.pathname + location.search : text,
  );

  const find = (image, annotation, protocol) => masks.cases.find((each) => (
    each.image === Number(image) && each.annotation === Number(annotation)
    && (!protocol || each.protocol === protocol)));
  const alike = (each) => masks.cases.filter((other) => other.protocol === each.protocol);

  const describe = (name, model) => {
    const text = make("p", "", make("strong", "", `${name}: ${masks.models[model]}`), ` ${masks.score(shown, model)}`);
    if (shown.masks[model]?.[1] != null) {
      const { missed, extra } = masks.errors(shown, model);
      // Only all and nothing are 100 % and 0 %.
      const percent = (share) => {
        if (share > 0 && share < 0.0005) return "< 0.1";
        if (share >= 0.995 && share < 1) return "> 99";
        return (100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0);
      };
      const part = (share) => (share <= 1 ? `${percent(share)} %` : `${share.toFixed(1)} times its area`);
      text.append(`; of the object ${part(missed)} missed, ${part(extra)} too much`);
    }
    return text;
  };

  const update = () => {
    if (!shown) return;
    const two = state.a !== state.b;
    const view = two ? state.view : "A";
    for (const each of [byB, ...views]) each.hidden = !two;
    const title = masks.title(shown);
    heading.textContent = title;
    const at = list.indexOf(shown);
    count.textContent = at < 0 ? "" : `${at + 1} of ${list.length}`;
    chooseA.value = state.a;
    chooseB.value = state.b;
    views.forEach((button, index) => {
      button.setAttribute("aria-pressed", String(state.view === ["A", "B", "slider"][index]));
    });
    whole.setAttribute("aria-pressed", String(state.whole));
    slider.hidden = view !== "slider";
    const [left, right] = view === "slider" ? [" (left)", " (right)"] : ["", ""];
    scores.replaceChildren(
      describe(`A${left}`, state.a), ...(two ? [describe(`B${right}`, state.b)] : []),
    );
    const named = { A: [state.a], B: [state.b], slider: [state.a, state.b] }[view];
    canvas.setAttribute("aria-label", `${title}: ${named.map((model) => (
      `${masks.models[model]}, ${masks.score(shown, model)}`)).join("; ")}`);
    replace(link(shown));
    paint();
  };

  const paint = () => {
    if (!shown || !box.open) return;
    const [rows, columns] = shown.size;
    const [, , w, h] = state.whole ? [0, 0, columns, rows] : shown.crop;
    const room = stage.getBoundingClientRect();
    const width = Math.max(60, Math.floor(Math.min(room.width, (room.height * w) / h)));
    const own = ++drawing;
    const view = state.a === state.b ? "A" : state.view;
    const order = view === "B" ? [state.b, state.b] : [state.a, state.b];
    slider.style.width = `${width}px`;
    slider.style.alignSelf = "center";
    masks.draw(canvas, shown, order, {
      width, mode: state.mode, whole: state.whole, stale: () => own !== drawing,
      split: view === "slider" ? state.split / 100 : undefined,
    }).then(() => { if (own === drawing) canvas.dataset.drawn = String(shown.index); });
  };

  const show = (each, changes = {}) => {
    shown = each;
    if (!list.includes(each)) list = alike(each);
    Object.assign(state, changes);
    if (!box.open) box.showModal();
    update();
  };

  // `cases` are those that the arrow keys go through.
  const open = (each, changes = {}, cases = alike(each)) => {
    list = cases;
    const { a, b } = { ...state, ...changes };
    location.hash = link(each, a, b);
    show(each, changes);
  };
  window.openCase = (imageId, annotationId, modelA, modelB, protocol, order) => {
    const each = protocol ? find(imageId, annotationId, protocol)
      : find(imageId, annotationId, lightbox.protocol) ?? find(imageId, annotationId);
    if (!each) return false;
    const named = [modelA, modelB].filter((name) => name !== undefined);
    if (named.some((name) => !masks.models.includes(name))) return false;
    const [a = state.a, b = state.b] = named.map((name) => masks.models.indexOf(name));
    const cases = order?.map(([image, annotation]) => find(image, annotation, each.protocol)).filter(Boolean);
    open(each, { a, b, view: named.length > 1 ? "slider" : "A" }, cases);
    return true;
  };

  // A link with a case opens it, on loading and when it is followed.
  const follow = () => {
    const given = new URLSearchParams(location.hash.slice(1));
    const each = given.has("case") ? find(...given.get("case").split(",")) : undefined;
    const named = ["a", "b"].filter((name) => given.has(name));
    if (!each || named.some((name) => !masks.models.includes(given.get(name)))) {
      if (given.has("case")) page.warn(`The address asked for masks of case ${given.get("case")}, which this page does not have.`);
      if (box.open) box.close();
      return;
    }
    if (each === shown && box.open) return;
    show(each, Object.fromEntries(named.map((name) => [name, masks.models.indexOf(given.get(name))])));
  };

  slider.addEventListener("input", () => { state.split = Number(slider.value); paint(); });
  stage.addEventListener("pointermove", (event) => {
    if (state.view !== "slider" || !(event.buttons & 1)) return;
    const place = canvas.getBoundingClientRect();
    state.split = Math.min(100, Math.max(0, (100 * (event.clientX - place.x)) / place.width));
    slider.value = state.split;
    paint();
  });
  box.addEventListener("keydown", (event) => {
    if (event.target.matches("select, input") || event.altKey || event.ctrlKey || event.metaKey) return;
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    step(by);
  });
  box.addEventListener("close", () => {
    shown = null;
    drawing += 1;
    replace(hash(null));
  });
  box.addEventListener("click", (event) => { if (event.target === box) box.close(); });
  new ResizeObserver(paint).observe(stage);
  addEventListener("hashchange", follow);
  return { open, link, follow, state, protocol: undefined };
})();
