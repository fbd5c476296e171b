// The selection of the page: data, conditions and models. It is kept in the address, such as
// `#dataset=photos&protocol=box`; `at` is the section that is shown. A change is announced by the
// event `selectionchange` of the root.
(() => {
  const root = document.documentElement;
  const { protocols, precisions, start } = page.data.selection;
  const names = Object.keys(page.data.names);
  const selection = { ...start };
  const without = new Set();
  let find = "";
  let stored = location.hash.includes("=");

  const address = () => {
    const text = location.hash.slice(1);
    return new URLSearchParams(text && !text.includes("=") ? { at: text } : text);
  };
  // The part of an address that this page's selection is in; `case` is that of the lightbox.
  const parts = ["dataset", "protocol", "device", "precision", "find", "without", "compare",
    "model", "order", "category", "size", "from", "to"];
  const own = (params) => parts.map((name) => params.getAll(name).join("\n")).join("\t");
  let restored = null;
  // Stores values in the address; an empty value removes its name.
  page.remember = (values) => {
    const params = address();
    for (const [name, value] of Object.entries(values)) {
      params.delete(name);
      for (const each of [value].flat()) if (each) params.append(name, each);
    }
    history.replaceState(null, "", `#${params}`);
    stored = true;
    restored = own(params);
  };
  page.recall = (name) => address().getAll(name);
  page.selection = selection;

  const matches = (name) => {
    const words = find.toLowerCase().split(/[\s,]+/).filter(Boolean);
    return !words.length || words.some((word) => name.toLowerCase().includes(word));
  };
  page.isShown = (name) => !(name in page.data.names) || (!without.has(name) && matches(name));

  const fits = (scope) => Object.entries(scope).every(
    ([key, value]) => selection[key] === undefined || selection[key] === value,
  );
  const scoped = [...document.querySelectorAll("[data-scope]")].map(
    (node) => [node, JSON.parse(node.dataset.scope)],
  );

  // A group shows one figure of the selection; a menu has the others.
  const groups = [...document.querySelectorAll(".group")].map((node) => {
    const figures = [...node.children];
    const [frame, menu] = page.select(node.dataset.label, [], (value) => { wanted = value; arrange(); });
    const bar = document.createElement("div");
    bar.className = "chooser";
    bar.append(frame);
    node.before(bar);
    let wanted = "";
    const arrange = () => {
      const fitting = figures.filter((each) => fits(JSON.parse(each.dataset.scope ?? "{}")));
      const options = fitting.map((each) => each.dataset.choice);
      menu.replaceChildren(...options.map((text) => new Option(text)));
      if (options.includes(wanted)) menu.value = wanted;
      bar.hidden = options.length < 2;
      for (const each of figures) {
        each.hidden = !fitting.includes(each) || each.dataset.choice !== menu.value;
      }
      dispatchEvent(new Event("resize"));
    };
    return arrange;
  });

  const apply = () => {
    selection.reference = selection.protocol?.split(" vs ")[1] ?? "ground-truth";
    for (const [node, scope] of scoped) node.hidden = !fits(scope);
    for (const arrange of groups) arrange();
    for (const note of document.querySelectorAll(".nothing")) {
      const parts = [...note.parentElement.querySelectorAll("[data-scope]")];
      note.hidden = !parts.length || parts.some((each) => !each.hidden);
    }
    root.dispatchEvent(new Event("selectionchange"));
  };

  const menus = {};
  const optionsOf = {
    dataset: () => Object.keys(protocols),
    protocol: () => protocols[selection.dataset] ?? [],
    device: () => Object.keys(precisions),
    precision: () => precisions[selection.device] ?? [],
  };
  // Fills the menus in their order; a value that this page does not have becomes the first one.
  const fill = () => {
    const unknown = [];
    for (const [name, [frame, menu]] of Object.entries(menus)) {
      const options = optionsOf[name]();
      if (!options.includes(selection[name])) {
        if (selection[name] !== undefined) unknown.push(`${name} ${selection[name]}`);
        [selection[name]] = options;
      }
      menu.replaceChildren(...options.map((text) => new Option(text)));
      for (const option of menu.options) option.title = page.data.prompts[option.value] ?? "";
      menu.value = selection[name] ?? "";
      frame.hidden = !options.length;
    }
    const prompt = page.data.prompts[selection.protocol];
    promptNote.textContent = prompt && prompt.toLowerCase() !== selection.protocol ? `${selection.protocol}: ${prompt}.` : "";
    return unknown;
  };
  page.change = (values) => {
    Object.assign(selection, values);
    fill();
    const { dataset, protocol, device, precision } = selection;
    page.remember({ dataset, protocol, device, precision });
    page.warn("");
    apply();
    page.say(`${dataset ?? ""} ${protocol ?? ""} ${device ?? ""} ${precision ?? ""}`);
  };
  for (const [name, label] of [
    ["dataset", "Data"], ["protocol", "Prompt"], ["device", "Device"], ["precision", "Precision"],
  ]) menus[name] = page.select(label, [], (value) => page.change({ [name]: value }));
  const paragraph = (id) => {
    const made = document.createElement("p");
    Object.assign(made, { id, className: "muted" });
    return made;
  };
  const promptNote = paragraph("prompt-note");
  const warning = paragraph("address-note");
  page.warn = (text) => { warning.textContent = text && `${warning.textContent} ${text}`.trim(); };
  page.warn("");

  // Models: a search, and a box for each. The boxes are the legend of the whole page.
  const popup = document.createElement("details");
  popup.id = "models-filter";
  const summary = document.createElement("summary");
  const search = document.createElement("input");
  search.type = "search";
  search.placeholder = "part of a name";
  search.setAttribute("aria-label", "Show only models whose names contain");
  const boxes = names.map((name, index) => {
    const label = document.createElement("label");
    const box = document.createElement("input");
    const swatch = document.createElement("span");
    box.type = "checkbox";
    swatch.className = "dot";
    label.append(box, swatch, name);
    box.addEventListener("change", () => {
      if (box.checked) without.delete(name);
      else without.add(name);
      filter();
    });
    return { name, label, box, swatch, index };
  });
  const list = document.createElement("div");
  list.className = "boxes";
  list.append(...boxes.map((each) => each.label));
  const paint = () => {
    const { category } = page.data.themes[root.dataset.shown].range;
    for (const each of boxes) each.swatch.style.background = category[each.index];
  };
  const showModels = () => {
    let count = 0;
    for (const { name, label, box } of boxes) {
      label.hidden = !matches(name);
      box.checked = !without.has(name);
      count += page.isShown(name);
    }
    search.value = find;
    note.hidden = count === names.length;
    summary.textContent = count === names.length ? `All ${count} models` : `${count} of ${names.length} models`;
    page.say(summary.textContent);
  };
  const filter = () => {
    page.remember({ find, without: [...without] });
    showModels();
    apply();
  };
  search.addEventListener("input", () => { find = search.value; filter(); });
  const all = page.button("All", () => { find = ""; without.clear(); filter(); }, "Show all models");
  const none = page.button("None", () => {
    for (const name of names) without.add(name);
    filter();
  }, "Hide all models");
  const inside = document.createElement("div");
  inside.className = "popup";
  inside.append(search, all, none, list);
  popup.append(summary, inside);
  popup.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    popup.open = false;
    summary.focus();
  });
  document.addEventListener("pointerdown", (event) => {
    if (!popup.contains(event.target)) popup.open = false;
  });
  root.addEventListener("themechange", paint);
  const note = paragraph("filter-note");
  note.textContent = "Sentences are about all models; tables, charts, Compare and Masks about those shown. Published claims and runs are not filtered.";
  const share = page.button("Copy link", async (button) => {
    page.flash(button, (await page.copy(location.href)) ? "Copied" : "The browser refused");
  }, "Copy a link to this selection");
  document.getElementById("selector").append(
    ...Object.values(menus).map(([frame]) => frame), popup, share, promptNote, note, warning,
  );

  const restore = () => {
    for (const name of Object.keys(menus)) selection[name] = page.recall(name)[0] ?? selection[name];
    find = page.recall("find")[0] ?? "";
    without.clear();
    for (const name of page.recall("without")) without.add(name);
    restored = own(address());
    const unknown = fill();
    if (unknown.length) {
      const { dataset, protocol, device, precision } = selection;
      page.remember({ dataset, protocol, device, precision });
      page.warn(`The address asked for ${unknown.join(", ")}, which this page does not have.`);
    }
    showModels();
    apply();
  };
  addEventListener("hashchange", () => {
    const { hash } = location;
    // A link to a section replaces the address; the selection is written behind it again.
    if (hash && !hash.includes("=")) {
      const { dataset, protocol, device, precision } = selection;
      if (stored) page.remember({ dataset, protocol, device, precision, find, without: [...without] });
    } else if (own(address()) !== restored) restore();
  });
  paint();
  page.start = () => {
    restore();
    const section = document.getElementById(page.recall("at")[0] ?? "");
    if (!section) return;
    // The browser would go back to where the page was when it was left.
    history.scrollRestoration = "manual";
    section.scrollIntoView({ behavior: "instant" });
  };
})();
