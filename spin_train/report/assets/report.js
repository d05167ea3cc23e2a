"use strict";
// Search and order of the prompts. Without it the page shows all of them, in the order of the data.
(function () {
  const box = document.getElementById("items");
  if (!box) return;
  const PAGE = 20;
  const items = Array.from(box.children).map((node, place) => ({
    node,
    place,
    text: node.textContent.toLowerCase(),
    margins: JSON.parse(node.dataset.margins),
  }));
  const search = document.getElementById("search");
  const order = document.getElementById("order");
  const judge = document.getElementById("judge");
  const more = document.getElementById("more");
  const count = document.getElementById("count");
  let most = PAGE;

  function arranged(found) {
    const sign = { worst: 1, best: -1 }[order ? order.value : ""];
    if (!sign) return found;
    const of = (item) => item.margins[judge.value];
    const known = found.filter((item) => of(item) !== undefined);
    known.sort((a, b) => sign * (of(a) - of(b)) || a.place - b.place);
    return known.concat(found.filter((item) => of(item) === undefined));
  }

  function show() {
    const words = search.value.toLowerCase().trim();
    const found = arranged(items.filter((item) => item.text.includes(words)));
    const chosen = new Set(found.slice(0, most));
    for (const item of items) item.node.hidden = !chosen.has(item);
    for (const item of found) box.append(item.node);
    more.hidden = found.length <= most;
    count.textContent = `${chosen.size} of ${found.length} prompts` + (words ? " found" : "");
  }

  function again() {
    most = PAGE;
    show();
  }

  search.form.addEventListener("submit", (event) => event.preventDefault());
  search.addEventListener("input", again);
  if (order) {
    order.addEventListener("change", again);
    judge.addEventListener("change", again);
  }
  more.addEventListener("click", () => {
    const first = most;
    most += PAGE;
    show();
    const next = box.querySelectorAll("article:not([hidden])")[first];
    if (next) {
      next.tabIndex = -1;
      next.focus();
    }
  });
  search.form.hidden = false;
  show();
})();
