"use strict";
(async () => {
  const root = document.documentElement;
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const button = document.getElementById("theme");
  const boxes = [...document.querySelectorAll("#runs input")];
  const tint = boxes.length > 8 ? "16" : "33";
  const system = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  let turn = 0;

  const theme = () => chosen ?? (system.matches ? "dark" : "light");

  function setTheme() {
    root.dataset.theme = theme();
    button.textContent = theme() === "dark" ? "Light theme" : "Dark theme";
  }

  // A string that names a custom property stands for its value; "-band" behind it, for a tint of it.
  function resolved(value, style) {
    if (typeof value === "string" && value.startsWith("--")) {
      const band = value.endsWith("-band");
      return style.getPropertyValue(band ? value.slice(0, -5) : value).trim() + (band ? tint : "");
    }
    if (Array.isArray(value)) return typeof value[0] === "object" ? value.map((v) => resolved(v, style)) : value;
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, resolved(v, style)]));
  }

  // Leaves out what belongs to runs that are not shown: whole traces, or single bars of one.
  function shownTraces(traces, hidden) {
    return traces.filter((t) => !hidden.has(t.meta?.run)).map((t) => {
      if (!t.meta?.runs) return t;
      const kept = (values) => values.filter((_, i) => !hidden.has(t.meta.runs[i]));
      return { ...t, x: kept(t.x), y: kept(t.y) };
    });
  }

  function layoutOf(chart, style) {
    const line = { gridcolor: "--grid", zerolinecolor: "--grid", linecolor: "--edge", automargin: true };
    const axis = (own) => ({ ...line, ...own, title: { ...own.title, standoff: 8 } });
    return resolved({
      margin: { l: 50, r: 14, t: 8, b: 40 }, showlegend: false, hovermode: "closest", autosize: true,
      dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
      font: { color: "--text", size: 12, family: getComputedStyle(document.body).fontFamily },
      paper_bgcolor: "--panel", plot_bgcolor: "--panel",
      hoverlabel: { bgcolor: "--paper", bordercolor: "--edge", font: { color: "--text" } },
      ...chart.layout, xaxis: axis(chart.layout.xaxis), yaxis: axis(chart.layout.yaxis),
    }, style);
  }

  // Draws chart after chart, letting the page breathe between them; a later call ends an earlier one.
  async function drawAll() {
    const mine = ++turn;
    const style = getComputedStyle(root);
    const hidden = new Set(boxes.filter((b) => !b.checked).map((b) => Number(b.dataset.run)));
    for (const chart of charts) {
      const place = document.getElementById(`${chart.name}-chart`);
      const traces = resolved(shownTraces(chart.traces, hidden), style);
      await Plotly.react(place, traces, layoutOf(chart, style), { displayModeBar: false, responsive: true });
      await new Promise((done) => setTimeout(done));
      if (mine !== turn) return;
    }
    root.dataset.drawn = root.dataset.theme;
    root.dataset.drawnMs ??= Math.round(performance.now());
  }

  async function unpacked(id) {
    const packed = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  }

  setTheme();
  button.hidden = false;
  try {
    const script = document.createElement("script");
    script.textContent = await unpacked("plotly");
    document.head.append(script);
    await drawAll();
  } catch (error) {
    const note = document.createElement("p");
    note.setAttribute("role", "alert");
    note.textContent = `The charts cannot be drawn (${error.message}); a browser of 2023 or later draws them. Every number is in the tables.`;
    document.querySelector("main").prepend(note);
    throw error;
  }
  button.addEventListener("click", () => {
    chosen = theme() === "dark" ? "light" : "dark";
    setTheme();
    drawAll();
  });
  system.addEventListener("change", () => { setTheme(); drawAll(); });
  for (const box of boxes) box.addEventListener("change", drawAll);
  document.querySelector("#runs .both").hidden = boxes.length < 3;
  for (const all of document.querySelectorAll("#runs button")) {
    all.addEventListener("click", () => {
      for (const box of boxes) box.checked = Boolean(all.dataset.all);
      drawAll();
    });
  }
})();
