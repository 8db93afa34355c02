(() => {
  "use strict";
  const touch = window.matchMedia("(pointer: coarse)").matches;
  const ACCENT = "#0b65c2";

  // Which axes a figure shows: x, y and the lines of the limits come from its `axes`.
  const shown = (figure) => {
    const across = figure.axes[figure.across], up = figure.axes[figure.up];
    figure.data.forEach((trace, number) => {
      trace.x = across.values[number];
      trace.y = up.values[number];
    });
    const line = { type: "line", layer: "below", line: { color: ACCENT, width: 1, dash: "dash" }, opacity: 0.6 };
    figure.layout.shapes = [];
    if (across.limit !== null) {
      figure.layout.shapes.push({ ...line, x0: across.limit, x1: across.limit, yref: "paper", y0: 0, y1: 1 });
    }
    if (up.limit !== null) {
      figure.layout.shapes.push({ ...line, y0: up.limit, y1: up.limit, xref: "paper", x0: 0, x1: 1 });
    }
    figure.layout.xaxis = { ...figure.layout.xaxis, title: { text: across.title }, autorange: true };
    figure.layout.yaxis = { ...figure.layout.yaxis, title: { text: up.title }, autorange: true };
  };

  const draw = (place, figure) => {
    const config = { displayModeBar: false, responsive: true, showTips: false };
    const layout = { ...figure.layout, dragmode: touch ? false : "zoom", datarevision: Math.random() };
    return Plotly.react(place, figure.data, layout, config);
  };

  const chooser = (figure, key, name, redraw) => {
    const label = document.createElement("label"), select = document.createElement("select");
    label.append(name, select);
    figure.axes.forEach((axis, number) => select.add(new Option(axis.name, String(number), false, number === figure[key])));
    select.addEventListener("change", () => { figure[key] = Number(select.value); redraw(); });
    return label;
  };

  const drawn = [];
  for (const chart of document.querySelectorAll("figure.chart")) {
    const place = chart.querySelector(".plot");
    const figure = JSON.parse(chart.querySelector("script").textContent);
    const redraw = () => { if (figure.axes) { shown(figure); } return draw(place, figure); };
    if (figure.axes && figure.axes.length > 2) {
      const axes = document.createElement("div");
      axes.className = "axes";
      axes.append(chooser(figure, "across", "Across", redraw), chooser(figure, "up", "Up", redraw));
      chart.insertBefore(axes, place);
    }
    redraw();
    drawn.push({ place, figure, redraw });
  }

  // A row that is picked shows its command, and its point in the charts; a point that is picked, its row.
  const table = document.querySelector(".members");
  const rowOf = (number) => table && table.querySelector(`tr[data-number="${Number(number)}"]`);
  const pick = (row, scroll) => {
    table.querySelectorAll('tr[aria-selected="true"]').forEach((each) => each.removeAttribute("aria-selected"));
    row.setAttribute("aria-selected", "true");
    const command = table.querySelector(".command code");
    if (command) { command.textContent = row.dataset.command; }
    if (scroll) { row.scrollIntoView({ block: "nearest" }); }
    const number = Number(row.dataset.number);
    for (const { figure, redraw } of drawn.filter((each) => each.figure.axes)) {
      const picked = figure.data.findIndex((trace) => trace.meta === "picked");
      const front = figure.data.findIndex((trace) => trace.meta === "front");
      if (picked < 0 || front < 0 || !figure.data[front].customdata) { continue; }
      const point = figure.data[front].customdata.indexOf(number);
      figure.axes.forEach((axis) => { axis.values[picked] = [point < 0 ? null : axis.values[front][point]]; });
      redraw();
    }
  };
  if (table) {
    const body = table.querySelector("tbody");
    body.addEventListener("click", (event) => {
      const row = event.target.closest("tr[data-command]");
      if (row) { pick(row, false); }
    });
    body.addEventListener("keydown", (event) => {
      const row = event.target.closest("tr[data-command]");
      if (row && (event.key === "Enter" || event.key === " ")) { event.preventDefault(); pick(row, false); }
    });
    const first = body.querySelector("tr.marked[data-command]");
    if (first) {
      first.setAttribute("aria-selected", "true");
      const scroll = table.querySelector(".scroll");
      scroll.scrollTop = first.offsetTop - scroll.clientHeight / 2;
    }
    for (const { place } of drawn) {
      place.on("plotly_click", (event) => {
        const row = rowOf(event.points[0].customdata);
        if (row) { pick(row, true); }
      });
    }

    const heads = [...table.querySelectorAll("th")];
    const value = (row, column) => {
      const raw = row.cells[column].dataset.value;
      return raw === undefined ? null : Number.isNaN(Number(raw)) ? raw : Number(raw);
    };
    heads.forEach((head, column) => head.querySelector("button")?.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].sort((one, other) => {
        const a = value(one, column), b = value(other, column);
        // What has no value is last either way.
        if (a === null || b === null) { return (a === null) - (b === null); }
        return (a < b ? -1 : a > b ? 1 : 0) * (down ? -1 : 1);
      });
      body.append(...rows);
    }));
  }

  for (const button of document.querySelectorAll(".copy")) {
    button.addEventListener("click", async () => {
      const code = button.parentElement.querySelector("code");
      getSelection().selectAllChildren(code);
      try { await navigator.clipboard.writeText(code.textContent); button.textContent = "Copied"; } catch { button.textContent = "Selected"; }
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  }
  addEventListener("beforeprint", () => drawn.forEach(({ place }) => Plotly.Plots.resize(place)));
})();
