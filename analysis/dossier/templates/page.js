// A curve or row is shown when every choice it was made for is the chosen one.
const shown = (made, chosen) =>
  Object.entries(made).every(([key, value]) => [value, "all"].includes(chosen[key]));

for (const form of document.querySelectorAll("form[data-plot]")) {
  const plot = document.getElementById(form.dataset.plot);
  const rows = document.querySelectorAll(`#${form.dataset.plot}-numbers tbody tr`);
  form.addEventListener("input", () => {
    const chosen = Object.fromEntries(new FormData(form));
    for (const slider of form.querySelectorAll("input[type=range]")) {
      const place = slider.list.options[slider.value];
      chosen[slider.name] = place.dataset.choice;
      slider.nextElementSibling.value = place.label;
      slider.setAttribute("aria-valuetext", place.label);
    }
    Plotly.restyle(plot, { visible: plot.data.map((curve) => shown(curve.meta ?? {}, chosen)) });
    for (const row of rows) row.hidden = !shown(row.dataset, chosen);
  });
  form.reset();
}

const ledger = document.getElementById("ledger");
ledger.addEventListener("input", () => {
  const { words, ...chosen } = Object.fromEntries(new FormData(ledger));
  let count = 0;
  for (const row of document.querySelectorAll("#claims-table tbody tr")) {
    const found = row.textContent.toLowerCase().includes(words.trim().toLowerCase());
    row.hidden = !(found && shown(row.dataset, chosen));
    count += !row.hidden;
  }
  ledger.querySelector("output").value = `${count} shown`;
});
ledger.reset();
