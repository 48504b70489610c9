// A curve, a sentence or a row is shown when every choice it was made for is the chosen one.
const shown = (made, chosen) =>
  Object.entries(made).every(([key, value]) => [value, "all"].includes(chosen[key]));

// The address holds a place, then the choices that differ from those at first: #place?plot.name=value.
const [place, state] = (() => {
  const [anchor, choices = ""] = location.hash.slice(1).split("?");
  return [decodeURIComponent(anchor), new URLSearchParams(choices)];
})();
let moved = false;
const remember = (key, value, first) => {
  if (value === first) state.delete(key); else state.set(key, value);
  if (moved) history.replaceState(null, "", `#${key.split(".")[0]}${state.size ? `?${state}` : ""}`);
};

const chosenIn = (form) => {
  const chosen = Object.fromEntries(new FormData(form));
  for (const slider of form.querySelectorAll("input[type=range]")) {
    const at = slider.list.options[slider.value];
    chosen[slider.name] = at.dataset.choice;
    slider.nextElementSibling.value = at.label;
    slider.setAttribute("aria-valuetext", at.label);
  }
  return chosen;
};
const take = (form) => {
  for (const [key, value] of [...state]) {
    const [owner, name] = key.split(/\.(.*)/s), control = form.elements[name];
    if (owner !== form.dataset.state || !control) continue;
    const at = control.list ? [...control.list.options].findIndex((o) => o.dataset.choice === value) : value;
    if (at !== -1) control.value = at;
  }
};
// Follow a form: once now, with the choices of the address, and at every input.
const follow = (form, answer) => {
  form.reset();
  const first = chosenIn(form);
  take(form);
  const react = () => {
    const chosen = chosenIn(form);
    for (const [name, value] of Object.entries(chosen)) remember(`${form.dataset.state}.${name}`, value, first[name]);
    answer(chosen);
  };
  form.addEventListener("input", react);
  react();
};

for (const form of document.querySelectorAll("form[data-plot]")) {
  const name = form.dataset.plot, where = document.getElementById(`${name}-plot`);
  const plot = JSON.parse(document.getElementById(`${name}-curves`).textContent);
  const made = document.querySelectorAll(`#${name}-numbers tbody tr, #${name}-notes > *`);
  let visible = [];
  const answer = (chosen) => {
    visible = plot.curves.filter((curve) => shown(curve.meta, chosen));
    where.visible = visible.map((curve) => curve.meta);
    draw(where, plot, visible);
    for (const part of made) part.hidden = !shown(part.dataset, chosen);
  };
  follow(form, answer);
  let width = where.clientWidth;
  new ResizeObserver(() => {
    if (where.clientWidth !== width) draw(where, plot, visible);
    width = where.clientWidth;
  }).observe(where);
}

// A form with data-filters shows the rows of that table which fit its choices and have its words.
for (const form of document.querySelectorAll("form[data-filters]")) {
  const rows = document.getElementById(form.dataset.filters).tBodies[0].rows;
  follow(form, ({ words, ...chosen }) => {
    let count = 0;
    for (const row of rows) {
      const found = row.textContent.toLowerCase().includes(words.trim().toLowerCase());
      row.hidden = !(found && shown(row.dataset, chosen));
      count += !row.hidden;
    }
    form.querySelector("output").value = `${count} shown`;
  });
}

// A click on a heading sorts by it, first downwards, then upwards; numbers by the first one in a cell.
const worth = (row, column) => {
  const text = row.cells[column].textContent.trim().replaceAll("−", "-").replaceAll(",", "");
  const number = parseFloat(text.replace(/^[≤≥=<>*\s]+/, ""));
  return Number.isNaN(number) ? text : number;
};
const compare = (a, b) => typeof a === typeof b ? (typeof a === "number" ? a - b : a.localeCompare(b))
  : typeof a === "number" ? -1 : 1;
const sort = (table, column, rising) => {
  const body = table.tBodies[0], way = rising ? 1 : -1;
  for (const row of [...body.rows].map((row) => [worth(row, column), row])
    .sort(([a], [b]) => way * compare(a, b))) body.append(row[1]);
  for (const head of table.tHead.rows[0].cells) head.removeAttribute("aria-sort");
  table.tHead.rows[0].cells[column].setAttribute("aria-sort", rising ? "ascending" : "descending");
};
for (const table of document.querySelectorAll("table.sortable")) {
  const order = state.get(`${table.id}.sort`);
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const rising = head.getAttribute("aria-sort") !== "ascending";
      sort(table, column, rising);
      remember(`${table.id}.sort`, `${rising ? "" : "-"}${column}`, "");
    });
  });
  const column = Math.abs(parseInt(order ?? "", 10));
  if (column < table.tHead.rows[0].cells.length) sort(table, column, !order.startsWith("-"));
}

// What a link leads to may lie within folded parts; a print unfolds the figures.
const unfold = (part) => {
  for (let fold = part?.closest("details") ?? part?.querySelector("details"); fold; fold = fold.parentElement.closest("details"))
    fold.open = true;
};
const go = (anchor) => {
  const part = document.getElementById(anchor);
  if (part?.matches("figure")) unfold(part);
  return part;
};
addEventListener("hashchange", () => go(decodeURIComponent(location.hash.slice(1).split("?")[0]))?.scrollIntoView());
addEventListener("beforeprint", () => {
  for (const fold of document.querySelectorAll("figure details")) fold.open = true;
});
if (matchMedia("(max-width: 68rem)").matches) document.querySelector("nav details").open = false;
if (place) go(place)?.scrollIntoView();
moved = true;
