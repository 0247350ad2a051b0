// Plotly, in the colours of the page. It reads tags in texts: they are escaped before they come here.

// It is large, and the table does without: whatever draws awaits it.
let plotlyComes = window.Plotly ? Promise.resolve() : null;
function plotly() {
  plotlyComes ??= new Promise((there, failed) => {
    const lost = () => { plotlyComes = null; failed(new Error("plotly.min.js did not come")); };
    document.head.append(el("script", { src: "plotly.min.js", on: { load: there, error: lost } }));
  });
  return plotlyComes;
}

const escaped = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const DASHES = ["solid", "dash", "dot", "dashdot"];
const lineOf = (run) => ({ color: colour(`c${run.colour}`), dash: DASHES[run.dash], width: 1.8 });

const PLOT_OPTIONS = { displaylogo: false, responsive: true, showSendToCloud: false, showEditInChartStudio: false, plotlyServerURL: "", modeBarButtonsToRemove: ["sendDataToCloud", "lasso2d", "select2d"], topojsonURL: "", doubleClick: "reset" };

function layoutOf(xTitle, yTitle, more = {}) {
  const axis = { gridcolor: colour("faint"), linecolor: colour("line"), zerolinecolor: colour("faint"), automargin: true, tickfont: { size: 11 } };
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: colour("ink"), size: 12 },
    margin: { l: 52, r: 12, t: 8, b: 40 }, showlegend: false, hovermode: "closest", uirevision: "kept",
    hoverlabel: { bgcolor: colour("raised"), bordercolor: colour("line"), font: { color: colour("ink") }, namelength: -1 },
    ...more,
    xaxis: { ...axis, title: { text: escaped(xTitle), font: { size: 12 } }, ...more.xaxis },
    yaxis: { ...axis, title: { text: escaped(yTitle), font: { size: 12 } }, ...more.yaxis },
  };
}

function draw(place, traces, layout) {
  place.setAttribute("role", "img");
  return Plotly.react(place, traces, layout, PLOT_OPTIONS);
}

const clear = (place) => { if (place.data) Plotly.purge(place); };
