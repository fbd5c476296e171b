(() => {
  const tip = document.getElementById("tip");
  const root = document.documentElement;
  const hide = () => { tip.hidden = true; };
  const show = (text, x, y) => {
    tip.textContent = text;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(8, Math.min(x + 12, innerWidth - box.width - 8))}px`;
    tip.style.top = `${y - box.height - 12 < 8 ? y + 16 : y - box.height - 12}px`;
  };
  const tooltip = (_, event, __, text) => {
    if (text) show(text, event.clientX, event.clientY);
    else hide();
  };

  // With `ast`, Vega interprets expressions, so that the policy of the page need not allow eval.
  const embed = async (place, spec) => {
    const made = await vegaEmbed(place, spec, {
      renderer: "svg", ast: true, actions: false, defaultStyle: false, tooltip,
      config: page.data.themes[root.dataset.shown],
    });
    place.view = made.view;
    place.zoomed = spec.params.find(({ name }) => name === "zoom")?.select.encodings;
    place.title = "Drag to pan; Ctrl and wheel or + and - to zoom; double click or 0 to reset.";
    return made;
  };

  page.embed = embed;
  // The specification with the values and legends of the models that are shown.
  const filtered = (spec) => {
    const made = structuredClone(spec);
    for (const [name, rows] of Object.entries(made.datasets)) {
      made.datasets[name] = rows.filter((row) => page.isShown(row.model));
    }
    const shown = Object.keys(page.data.names).filter(page.isShown).map((name) => page.data.names[name]);
    for (const { encoding } of made.layer) {
      const legend = encoding.color?.legend;
      if (legend) legend.values = legend.values.filter((name) => shown.includes(name));
    }
    return made;
  };

  const isEmpty = (spec) => !Object.values(spec.datasets).flat().some((row) => row.model);

  // Charts are drawn when they come into view or the browser is idle, and for every theme. A hidden
  // chart has no width and is drawn when it is chosen.
  const drawn = new Set();
  const draw = async (figure) => {
    drawn.add(figure);
    figure.view?.finalize();
    const chart = figure.querySelector(".chart");
    const spec = filtered(page.data.charts[figure.dataset.key]);
    if (isEmpty(spec)) {
      Object.assign(chart, { textContent: "This chart has none of the models shown.", zoomed: null });
      figure.view = null;
    } else {
      figure.view = (await embed(chart, spec)).view;
      chart.tabIndex = 0;
    }
    figure.dataset.drawn = root.dataset.shown;
  };
  const watcher = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (isIntersecting && !drawn.has(target)) draw(target);
    }
  }, { rootMargin: "400px" });
  const redraw = () => drawn.forEach((figure) => {
    if (figure.checkVisibility()) draw(figure);
    else drawn.delete(figure);
  });
  root.addEventListener("themechange", redraw);
  let models = null;
  root.addEventListener("selectionchange", () => {
    const now = Object.keys(page.data.names).filter(page.isShown).join("\n");
    if (models !== null && models !== now) redraw();
    models = now;
  });
  const idle = window.requestIdleCallback ?? ((act) => setTimeout(act, 200));
  const drawNext = async () => {
    const next = [...document.querySelectorAll("figure.plot")].find(
      (figure) => !drawn.has(figure) && figure.checkVisibility(),
    );
    if (next) { await draw(next); idle(drawNext); }
  };

  // Plus and minus zoom around the middle of the axes, arrows with Shift pan, 0 resets.
  const zoom = (chart, key) => {
    const own = /^zoom_(?!(tuple|tuple_fields|translate_.*|zoom_.*|modify)$)/;
    const signals = Object.keys(chart.view.getState().signals).filter((name) => own.test(name));
    chart.zoomed.forEach((channel, index) => {
      const scale = chart.view.scale(channel);
      const [to, from] = scale.base ? [Math.log, Math.exp] : [Number, Number];
      const [low, high] = scale.domain().map(to);
      const half = ((high - low) / 2) * ({ "+": 0.8, "-": 1.25 }[key] ?? 1);
      const [dx, dy] = {
        ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowDown: [0, -1], ArrowUp: [0, 1],
      }[key] ?? [0, 0];
      const middle = (low + high) / 2 + 0.4 * half * (channel === "x" ? dx : dy);
      const domain = [from(middle - half), from(middle + half)];
      chart.view.signal(signals[index], key === "0" ? null : domain);
    });
    chart.view.runAsync();
    page.say({ "+": "Zoomed in", "-": "Zoomed out", 0: "Zoom reset" }[key] ?? "Moved");
  };
  // One stop of the tab key per chart; arrow keys go through the values along x, then the legend.
  const onKey = (chart, event) => {
    if (event.key === "Escape") hide();
    const key = event.key === "=" ? "+" : event.key;
    if (chart.zoomed && (["+", "-", "0"].includes(key) || (event.shiftKey && key.startsWith("Arrow")))) {
      event.preventDefault();
      zoom(chart, key);
      return;
    }
    const stops = [...chart.querySelectorAll(
      ".role-legend-label text, [aria-roledescription=value]",
    )].filter((each) => each.getBoundingClientRect().width > 0).map((each) => {
      const { x, y } = each.getBoundingClientRect();
      return { each, mark: each.getAttribute("aria-roledescription") === "value", x, y };
    }).sort((a, b) => b.mark - a.mark || (a.mark ? a.x - b.x : 0)).map(({ each }) => each);
    const at = stops.indexOf(document.activeElement);
    if ((event.key === "Enter" || event.key === " ") && at >= 0) {
      event.preventDefault();
      stops[at].dispatchEvent(new MouseEvent("click", { bubbles: true }));
    }
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step || !stops.length) return;
    event.preventDefault();
    const next = stops[at < 0 && step < 0 ? stops.length - 1 : (at + step + stops.length) % stops.length];
    next.setAttribute("tabindex", "-1");
    next.focus();
    const text = next.getAttribute("aria-label") ?? `${next.textContent}: Enter to highlight`;
    const box = next.getBoundingClientRect();
    show(text, box.x + box.width / 2, box.y);
    page.say(text);
  };

  page.onChartKey = onKey;
  page.hideTip = hide;

  const savedView = async (figure, use) => {
    const made = filtered(page.data.charts[figure.dataset.key]);
    if (isEmpty(made)) return page.say("This chart has none of the models shown");
    const place = document.createElement("div");
    place.className = "offscreen";
    document.body.append(place);
    const title = figure.querySelector("figcaption").textContent;
    const { view } = await embed(place, { ...made, title, padding: 12 });
    await use(view);
    view.finalize();
    place.remove();
    return undefined;
  };

  for (const figure of document.querySelectorAll("figure.plot")) {
    const chart = figure.querySelector(".chart");
    const title = figure.querySelector("figcaption").textContent;
    const name = figure.dataset.key;
    watcher.observe(figure);
    chart.addEventListener("keydown", (event) => onKey(chart, event));
    chart.addEventListener("focusout", hide);
    chart.addEventListener("pointerdown", hide);
    figure.querySelector(".tools").append(
      page.button("SVG", () => savedView(figure, async (view) => {
        page.save(`${name}.svg`, new Blob([await view.toSVG()], { type: "image/svg+xml" }));
      }), `Save as SVG: ${title}`),
      page.button("PNG", () => savedView(figure, async (view) => {
        const canvas = await view.toCanvas(2);
        canvas.toBlob((blob) => page.save(`${name}.png`, blob), "image/png");
      }), `Save as PNG: ${title}`),
      page.button("CSV", () => {
        const text = page.data.csv[`${name}-values`];
        page.save(`${name}.csv`, new Blob([text], { type: "text/csv" }));
      }, `Save the values as CSV: ${title}`),
    );
  }

  setTimeout(() => idle(drawNext), 1000);
})();
