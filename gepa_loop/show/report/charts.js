"use strict";
/* The colours of charts, which follow the page's own. */
(() => {
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function draw() {
    const ink = colour("--ink"), muted = colour("--muted"), line = colour("--line");
    const roles = { accent: colour("--accent"), other: muted, warn: colour("--warn") };
    for (const area of document.querySelectorAll("[data-figure]")) {
      const figure = JSON.parse(document.getElementById(area.dataset.figure).textContent);
      for (const trace of figure.data) {
        const own = roles[trace.meta.role];
        trace.line = { ...trace.line, color: own };
        const marker = trace.marker || {};
        trace.marker = { ...marker, color: own, line: { ...(marker.line || {}), color: own } };
      }
      const layout = figure.layout;
      layout.paper_bgcolor = layout.plot_bgcolor = "rgba(0,0,0,0)";
      layout.font = { color: muted, size: 12, family: getComputedStyle(document.body).fontFamily };
      layout.hoverlabel = { bgcolor: colour("--card"), bordercolor: line, font: { color: ink } };
      for (const name of ["xaxis", "yaxis"]) {
        Object.assign(layout[name], { gridcolor: line, linecolor: muted, showline: true, ticks: "outside", tickcolor: muted });
      }
      Plotly.react(area, figure.data, layout, { displayModeBar: false, responsive: true, showTips: false });
    }
  }

  draw();
  for (const query of ["(prefers-color-scheme: dark)", "print"]) {
    window.matchMedia(query).addEventListener("change", draw);
  }
})();
