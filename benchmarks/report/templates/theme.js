"use strict";
(() => {
  // The theme of the system is used until the reader chooses one; the choice is stored if allowed.
  const key = "mobilesam-bench-theme";
  const root = document.documentElement;
  root.classList.add("scripted");
  const system = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  try { chosen = localStorage.getItem(key); } catch { chosen = null; }
  if (chosen !== "dark" && chosen !== "light") chosen = null;
  const button = document.createElement("button");
  button.type = "button";
  const isDark = () => (chosen ? chosen === "dark" : system.matches);
  const show = () => {
    if (chosen) root.dataset.theme = chosen;
    button.textContent = isDark() ? "Light colours" : "Dark colours";
    root.dataset.shown = isDark() ? "dark" : "light";
    root.dispatchEvent(new Event("themechange"));
  };
  button.addEventListener("click", () => {
    chosen = isDark() ? "light" : "dark";
    try { localStorage.setItem(key, chosen); } catch { /* not stored */ }
    show();
  });
  system.addEventListener("change", show);
  show();
  document.getElementById("theme").append(button);

  const links = new Map(
    [...document.querySelectorAll(".toc a")].map((a) => [a.hash.slice(1), a]),
  );
  const seen = new Set();
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) seen.add(entry.target.id);
      else seen.delete(entry.target.id);
    }
    const first = [...links.keys()].find((id) => seen.has(id));
    for (const [id, link] of links) {
      if (id === first) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  }, { rootMargin: "-10% 0px -60% 0px" });
  for (const id of links.keys()) {
    const section = document.getElementById(id);
    if (section) watcher.observe(section);
  }
})();

// Helpers of the other scripts.
const page = (() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const said = document.getElementById("said");
  const button = (text, act, title) => {
    const made = document.createElement("button");
    made.type = "button";
    made.textContent = text;
    if (title) made.setAttribute("aria-label", title);
    made.addEventListener("click", () => act(made));
    return made;
  };
  const say = (text) => { said.textContent = text; };
  const flash = (made, text) => {
    const old = made.dataset.text ?? made.textContent;
    made.dataset.text = old;
    made.textContent = text;
    say(text);
    setTimeout(() => { made.textContent = old; }, 1600);
  };
  const save = (name, blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };
  const copy = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // A browser may refuse the clipboard to a page from disk: the older way still works there.
      const area = document.createElement("textarea");
      area.value = text;
      area.className = "unseen";
      (document.querySelector("dialog[open]") ?? document.body).append(area);
      area.select();
      const done = document.execCommand("copy");
      area.remove();
      return done;
    }
  };
  const select = (label, options, act) => {
    const frame = document.createElement("label");
    const made = document.createElement("select");
    for (const [value, text] of options) made.append(new Option(text, value));
    made.addEventListener("change", () => act(made.value));
    frame.append(label, made);
    return [frame, made];
  };
  return { data, button, say, flash, save, copy, select };
})();
