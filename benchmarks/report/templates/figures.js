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
  const embed = (place, spec) => vegaEmbed(place, spec, {
    renderer: "svg", ast: true, actions: false, defaultStyle: false, tooltip,
    config: page.data.themes[root.dataset.shown],
  });

  // Charts are drawn when they come into view or the browser is idle, and for every theme. A hidden
  // chart has no width and is drawn when it is chosen.
  const drawn = new Set();
  const draw = async (figure) => {
    drawn.add(figure);
    figure.view?.finalize();
    const chart = figure.querySelector(".chart");
    figure.view = (await embed(chart, page.data.charts[figure.dataset.key])).view;
    chart.tabIndex = 0;
    figure.dataset.drawn = root.dataset.shown;
  };
  const watcher = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (isIntersecting && !drawn.has(target)) draw(target);
    }
  }, { rootMargin: "400px" });
  root.addEventListener("themechange", () => drawn.forEach((figure) => {
    if (figure.checkVisibility()) draw(figure);
    else drawn.delete(figure);
  }));
  const idle = window.requestIdleCallback ?? ((act) => setTimeout(act, 200));
  const drawNext = async () => {
    const next = [...document.querySelectorAll("figure.plot")].find(
      (figure) => !drawn.has(figure) && figure.checkVisibility(),
    );
    if (next) { await draw(next); idle(drawNext); }
  };

  // One stop of the tab key per chart; arrow keys go through the values and the legend.
  const onKey = (chart, event) => {
    if (event.key === "Escape") hide();
    const stops = [...chart.querySelectorAll(
      ".role-legend-label text, [aria-roledescription=value]",
    )].filter((each) => each.getBoundingClientRect().width > 0);
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

  const savedView = async (figure, use) => {
    const place = document.createElement("div");
    place.className = "offscreen";
    document.body.append(place);
    const title = figure.querySelector("figcaption").textContent;
    const spec = { ...page.data.charts[figure.dataset.key], title, padding: 12 };
    const { view } = await embed(place, spec);
    await use(view);
    view.finalize();
    place.remove();
  };

  for (const figure of document.querySelectorAll("figure.plot")) {
    const chart = figure.querySelector(".chart");
    const title = figure.querySelector("figcaption").textContent;
    const name = figure.dataset.key;
    watcher.observe(figure);
    chart.addEventListener("keydown", (event) => onKey(chart, event));
    chart.addEventListener("focusout", hide);
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

  for (const group of document.querySelectorAll(".group")) {
    const figures = [...group.children];
    if (figures.length < 2) continue;
    const choose = (key) => {
      hide();
      for (const figure of figures) figure.hidden = figure.dataset.key !== key;
      dispatchEvent(new Event("resize"));
    };
    const options = figures.map((figure) => [figure.dataset.key, figure.dataset.choice]);
    const [frame] = page.select(group.dataset.label, options, choose);
    const bar = document.createElement("div");
    bar.className = "chooser";
    bar.append(frame);
    group.before(bar);
    choose(options[0][0]);
  }
  setTimeout(() => idle(drawNext), 1000);
})();
