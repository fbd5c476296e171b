(() => {
  const tip = document.getElementById("tip");
  const svgName = "http://www.w3.org/2000/svg";

  const place = (x, y) => {
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(8, Math.min(x + 12, innerWidth - box.width - 8))}px`;
    tip.style.top = `${y - box.height - 12 < 8 ? y + 16 : y - box.height - 12}px`;
  };
  const show = (mark, x, y) => {
    tip.textContent = mark.getAttribute("aria-label");
    tip.hidden = false;
    place(x, y);
  };
  const hide = () => { tip.hidden = true; };

  // One stop of the tab key a figure; arrows go from value to value.
  const makeMarks = (svg) => {
    const marks = [...svg.querySelectorAll(".mark")];
    marks.forEach((mark, index) => {
      const title = mark.querySelector("title");
      mark.setAttribute("role", "img");
      mark.setAttribute("aria-label", title.textContent);
      title.remove();
      mark.setAttribute("tabindex", index === 0 ? "0" : "-1");
      mark.addEventListener("pointermove", (event) => show(mark, event.clientX, event.clientY));
      mark.addEventListener("pointerleave", hide);
      mark.addEventListener("focus", () => {
        const box = mark.getBoundingClientRect();
        show(mark, box.x + box.width / 2, box.y);
      });
      mark.addEventListener("blur", hide);
      mark.addEventListener("keydown", (event) => {
        if (event.key === "Escape") { hide(); return; }
        const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        if (!step) return;
        event.preventDefault();
        const shown = marks.filter((each) => !each.classList.contains("off"));
        const next = shown[(shown.indexOf(mark) + step + shown.length) % shown.length];
        mark.setAttribute("tabindex", "-1");
        next.setAttribute("tabindex", "0");
        next.focus();
      });
    });
  };

  const makeKeys = (svg) => {
    for (const key of svg.querySelectorAll(".key")) {
      key.setAttribute("role", "button");
      key.setAttribute("tabindex", "0");
      key.setAttribute("aria-pressed", "true");
      key.setAttribute("aria-label", `Show ${key.querySelector("text").textContent}`);
      const flip = () => {
        const on = key.getAttribute("aria-pressed") !== "true";
        key.setAttribute("aria-pressed", String(on));
        const of = `[data-series="${key.dataset.series}"]:not(.key)`;
        for (const each of svg.querySelectorAll(of)) each.classList.toggle("off", !on);
        // The tab key must find a value that is still there.
        const marks = [...svg.querySelectorAll(".mark")];
        for (const each of marks) each.setAttribute("tabindex", "-1");
        marks.find((each) => !each.classList.contains("off"))?.setAttribute("tabindex", "0");
      };
      key.addEventListener("click", flip);
      key.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        flip();
      });
    }
  };

  // A drawing outside of this page has none of its styles: they are written into its elements.
  const looks = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray",
    "font-family", "font-size", "font-weight", "paint-order", "opacity", "text-decoration-line"];
  const standalone = (svg, title) => {
    const copy = svg.cloneNode(true);
    const from = [...svg.querySelectorAll("*")];
    [...copy.querySelectorAll("*")].forEach((to, index) => {
      const style = getComputedStyle(from[index]);
      if (style.display === "none") { to.dataset.drop = ""; return; }
      for (const look of looks) {
        const value = style.getPropertyValue(look);
        if (value && value !== "none" && value !== "normal") to.setAttribute(look, value);
        else if (look === "fill") to.setAttribute(look, "none");
      }
      for (const name of ["class", "role", "tabindex", "aria-pressed", "data-series"]) {
        to.removeAttribute(name);
      }
    });
    for (const each of copy.querySelectorAll("[data-drop]")) each.remove();
    const [, , width, height] = svg.getAttribute("viewBox").split(" ").map(Number);
    const ground = document.createElementNS(svgName, "rect");
    ground.setAttribute("width", "100%");
    ground.setAttribute("height", "100%");
    ground.setAttribute("y", "-26");
    ground.setAttribute("fill", getComputedStyle(document.body).getPropertyValue("--surface"));
    const heading = document.createElementNS(svgName, "text");
    heading.textContent = title;
    const ink = getComputedStyle(document.body).getPropertyValue("--ink");
    const font = getComputedStyle(document.body).fontFamily;
    for (const [name, value] of [["x", "4"], ["y", "-8"], ["fill", ink], ["font-size", "13"],
      ["font-weight", "700"], ["font-family", font]]) heading.setAttribute(name, value);
    copy.prepend(ground, heading);
    copy.setAttribute("xmlns", svgName);
    copy.setAttribute("viewBox", `0 -26 ${width} ${height + 26}`);
    copy.setAttribute("width", width);
    copy.setAttribute("height", height + 26);
    copy.removeAttribute("class");
    return [new XMLSerializer().serializeToString(copy), width, height + 26];
  };

  const savePng = (svg, title, name, button) => {
    const [text, width, height] = standalone(svg, title);
    const image = new Image();
    image.addEventListener("load", () => {
      const canvas = document.createElement("canvas");
      canvas.width = 2 * width;
      canvas.height = 2 * height;
      canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
      canvas.toBlob((blob) => page.save(name, blob), "image/png");
    });
    image.addEventListener("error", () => page.flash(button, "The browser refused"));
    image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
  };

  for (const figure of document.querySelectorAll("figure.plot")) {
    const drawings = [...figure.querySelectorAll(":scope > svg")];
    const shown = () =>
      drawings.find((svg) => getComputedStyle(svg).display !== "none") ?? drawings[0];
    const title = figure.querySelector("figcaption").textContent;
    const name = figure.dataset.key;
    for (const svg of drawings) { makeMarks(svg); makeKeys(svg); }
    figure.querySelector(".tools").append(
      page.button("SVG", () => {
        const [text] = standalone(shown(), title);
        page.save(`${name}.svg`, new Blob([text], { type: "image/svg+xml" }));
      }, `Save as SVG: ${title}`),
      page.button("PNG", (button) => savePng(shown(), title, `${name}.png`, button),
        `Save as PNG: ${title}`),
      page.button("CSV", () => {
        page.save(`${name}.csv`, new Blob([page.data.csv[name]], { type: "text/csv" }));
      }, `Save the values as CSV: ${title}`),
    );
  }

  for (const group of document.querySelectorAll(".group")) {
    const figures = [...group.children];
    if (figures.length < 2) continue;
    const choose = (key) => {
      hide();
      for (const figure of figures) figure.hidden = figure.dataset.key !== key;
    };
    const options = figures.map((figure) => [figure.dataset.key, figure.dataset.choice]);
    const [frame] = page.select(group.dataset.label, options, choose);
    const bar = document.createElement("div");
    bar.className = "chooser";
    bar.append(frame);
    group.before(bar);
    choose(options[0][0]);
  }
})();
