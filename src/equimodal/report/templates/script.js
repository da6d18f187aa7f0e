"use strict";
/* Sorting of tables, values of charts on pointer and keyboard, links to closed sections. Texts are set as text only. */
(() => {
  const valueOf = (row, column) => {
    const cell = row.cells[column];
    return cell === undefined ? "" : cell.dataset.sort ?? cell.textContent.trim();
  };
  const sort = (button) => {
    const head = button.closest("th"), table = head.closest("table"), body = table.tBodies[0];
    const numeric = button.dataset.kind === "number", before = head.getAttribute("aria-sort");
    const up = before ? before === "descending" : !numeric;
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const sign = up ? 1 : -1;
    const rows = [...body.rows].map((row) => [valueOf(row, head.cellIndex), row]);
    rows.sort(([a], [b]) => {
      if (a === "" || b === "") return (a === "") - (b === ""); /* what was not measured is last */
      return sign * (numeric ? a - b : a.localeCompare(b, undefined, { numeric: true }));
    });
    for (const [, row] of rows) body.append(row);
  };
  for (const button of document.querySelectorAll("button.sort")) button.addEventListener("click", () => sort(button));

  const tip = document.getElementById("tip");
  let shown = null; /* the chart that the tip is about */
  const hide = (chart) => {
    if (shown === chart) tip.hidden = true;
    chart.querySelector(".guide")?.remove();
  };
  const linesOf = (chart) => [...chart.querySelectorAll(".line")].map((path) => ({
    label: path.dataset.label,
    at: path.dataset.at.split(" ").map(Number),
    values: path.dataset.values.split(" "),
    places: path.getAttribute("d").slice(1).split("L").map((p) => p.split(" ").map(Number)),
  }));
  const show = (chart, at) => {
    const lines = linesOf(chart).flatMap((line) => {
      const i = line.at.indexOf(at);
      return i < 0 ? [] : [{ label: line.label, value: line.values[i], x: line.places[i][0] }];
    });
    if (!lines.length) return;
    lines.sort((a, b) => b.value - a.value);
    tip.textContent = [`${chart.dataset.x} ${at}`, ...lines.map((l) => `${l.label}: ${l.value}`)].join("\n");
    tip.hidden = false;
    shown = chart;
    chart.querySelector(".guide")?.remove();
    const guide = document.createElementNS(chart.namespaceURI, "path");
    guide.setAttribute("class", "guide");
    guide.setAttribute("d", `M${lines[0].x} 10V196`);
    chart.append(guide);
    const box = chart.getBoundingClientRect(), width = document.documentElement.clientWidth;
    const left = box.left + (lines[0].x / chart.viewBox.baseVal.width) * box.width + 12;
    const over = left + tip.offsetWidth + 8 > width;
    tip.style.left = `${scrollX + Math.max(4, over ? left - tip.offsetWidth - 24 : left)}px`;
    tip.style.top = `${scrollY + box.top + 8}px`;
    chart.dataset.shown = at;
  };
  const placesOf = (chart) => [...new Set(linesOf(chart).flatMap((l) => l.at))].sort((a, b) => a - b);
  for (const chart of document.querySelectorAll(".chart")) {
    chart.addEventListener("pointermove", (event) => {
      const box = chart.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * chart.viewBox.baseVal.width;
      let best = null;
      for (const line of linesOf(chart)) line.places.forEach(([at], i) => {
        if (best === null || Math.abs(at - x) < Math.abs(best[0] - x)) best = [at, line.at[i]];
      });
      if (best) show(chart, best[1]);
    });
    chart.addEventListener("pointerleave", () => document.activeElement === chart || hide(chart));
    chart.addEventListener("blur", () => hide(chart));
    chart.addEventListener("focus", () => {
      const places = placesOf(chart);
      if (places.length) show(chart, places[places.length - 1]);
    });
    chart.addEventListener("keydown", (event) => {
      const places = placesOf(chart), step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (event.key === "Escape") hide(chart);
      if (step === undefined || !places.length) return;
      event.preventDefault();
      const now = places.indexOf(Number(chart.dataset.shown));
      show(chart, places[Math.min(places.length - 1, Math.max(0, now + step))]);
    });
  }

  const open = () => {
    const target = location.hash.length > 1 ? document.getElementById(decodeURIComponent(location.hash.slice(1))) : null;
    for (let at = target; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
    target?.scrollIntoView();
  };
  addEventListener("hashchange", open);
  open();
})();
