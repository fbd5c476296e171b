(() => {
  const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
  // Cells without a number come last, whichever way a column is sorted.
  const valueOf = (cell) => {
    const given = cell.dataset.v;
    if (given === undefined) return cell.textContent || null;
    return given === "" ? null : Number(given);
  };
  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number" ? a - b : collator.compare(String(a), String(b));

  const sort = (table, index, way) => {
    const body = table.tBodies[0];
    const rows = [...table.rowsAsMade].map((row) => [valueOf(row.cells[index]), row]);
    if (way !== "none") {
      const sign = way === "ascending" ? 1 : -1;
      rows.sort(([a], [b]) => {
        if (a === null || b === null) return (a === null) - (b === null);
        return sign * compare(a, b);
      });
    }
    body.append(...rows.map(([, row]) => row));
  };

  const makeSortable = (table) => {
    table.rowsAsMade = [...table.tBodies[0].rows];
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, index) => {
      const name = head.textContent.trim();
      const button = page.button(name, () => {
        const old = head.getAttribute("aria-sort");
        const next = { none: "ascending", ascending: "descending", descending: "none" }[old];
        for (const each of heads) each.setAttribute("aria-sort", "none");
        head.setAttribute("aria-sort", next);
        sort(table, index, next);
        page.say(next === "none" ? "Order as it was" : `Sorted by ${name}, ${next}`);
      }, name ? undefined : `Sort by column ${index + 1}`);
      const text = document.createElement("span");
      text.append(...head.childNodes);
      button.replaceChildren(text);
      head.append(button);
      head.setAttribute("aria-sort", "none");
    });
  };

  // What GitHub's Markdown would read as markup.
  const escape = (text) => text.trim().replace(/\s+/g, " ")
    .replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;")
    .replace(/[\\`*_|~$]/g, "\\$&").replace(/\](?=[([:])/g, "\\]");
  const line = (cells) => `| ${cells.join(" | ")} |`;
  const markdown = (table) => {
    const heads = [...table.tHead.rows[0].cells];
    const rows = [...table.tBodies[0].rows].filter((row) => !row.hidden);
    return [
      line(heads.map((head) => escape(head.textContent))),
      line(heads.map((head) => (head.classList.contains("right") ? "---:" : "---"))),
      ...rows.map((row) => line([...row.cells].map((cell) => escape(cell.textContent)))),
      "",
    ].join("\n");
  };

  // Rows are hidden by the models and the protocol of the selection, and by the words of a field.
  const makeFilter = (figure, table) => {
    const heads = [...table.tHead.rows[0].cells].map((head) => head.textContent.trim());
    const counts = [figure, figure.parentElement].flatMap((each) => [
      ...each.querySelectorAll(":scope > figcaption > .count, :scope > summary > .count"),
    ]);
    const model = heads.indexOf("Model");
    const protocol = "protocols" in figure.dataset ? heads.indexOf("Protocol") : -1;
    const input = document.createElement("input");
    input.type = "search";
    input.placeholder = "words in a row";
    const update = () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      const wanted = page.selection.protocol?.split(" vs ")[0];
      let left = 0;
      for (const row of table.rowsAsMade) {
        const text = words.length ? row.textContent.toLowerCase() : "";
        row.hidden = !(words.every((word) => text.includes(word))
          && (model < 0 || page.isShown(row.cells[model].textContent))
          && (protocol < 0 || row.cells[protocol].textContent === wanted));
        left += !row.hidden;
      }
      // A footnote is shown with the rows that refer to it.
      const kept = table.rowsAsMade.filter((row) => !row.hidden).map((row) => row.textContent).join();
      for (const note of figure.querySelectorAll(".notes > li")) {
        const mark = /^\(\d+\)/.exec(note.textContent);
        note.hidden = mark !== null && !kept.includes(mark[0]);
      }
      const all = table.rowsAsMade.length;
      const text = `(${left === all ? "" : `${left} of `}${all} row${all === 1 ? "" : "s"})`;
      for (const each of counts) each.textContent = text;
      return left;
    };
    input.addEventListener("input", () => page.say(`Rows shown: ${update()}`));
    if (model >= 0 || protocol >= 0) document.documentElement.addEventListener("selectionchange", update);
    const frame = document.createElement("label");
    frame.append("Filter", input);
    return frame;
  };

  // Marks tables that have columns beyond their right edge.
  const watchWidth = (figure) => {
    const box = figure.querySelector(".scroll");
    const mark = () => {
      figure.classList.toggle("wide", box.scrollWidth > box.clientWidth + 1);
      figure.classList.toggle("tall", box.scrollHeight > box.clientHeight + 1);
      figure.classList.toggle("more", box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
    };
    box.addEventListener("scroll", mark, { passive: true });
    new ResizeObserver(mark).observe(box);
  };

  for (const figure of document.querySelectorAll("figure.table")) {
    const table = figure.querySelector("table");
    const tools = figure.querySelector(".tools");
    const title = figure.querySelector("figcaption").textContent.trim();
    const filterField = makeFilter(figure, table);
    makeSortable(table);
    watchWidth(figure);
    tools.append(
      page.button("Copy as Markdown", async (button) => {
        const done = await page.copy(markdown(table));
        page.flash(button, done ? "Copied" : "The browser refused");
      }, `Copy as Markdown: ${title}`),
      page.button("CSV", () => {
        const text = page.data.csv[figure.dataset.key];
        page.save(`${figure.dataset.key}.csv`, new Blob([text], { type: "text/csv" }));
      }, `Save as CSV: ${title}`),
    );
    if (tools.dataset.filter !== undefined) tools.append(filterField);
  }
})();
