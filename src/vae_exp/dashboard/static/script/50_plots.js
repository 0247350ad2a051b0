// Plotly in the colours of the page. It interprets tags in texts: callers escape them.

// It is large, and the table does not need it: whatever draws awaits it.
let plotlyLoading = window.Plotly ? Promise.resolve() : null;
function plotly() {
  plotlyLoading ??= new Promise((resolve, reject) => {
    const onError = () => {
      plotlyLoading = null;
      reject(new Error("plotly.min.js could not be loaded"));
    };
    document.head.append(el("script", { src: "plotly.min.js", on: { load: resolve, error: onError } }));
  });
  return plotlyLoading;
}

const escaped = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

const PLOT_OPTIONS = {
  displaylogo: false,
  responsive: true,
  showSendToCloud: false,
  showEditInChartStudio: false,
  plotlyServerURL: "",
  modeBarButtonsToRemove: ["sendDataToCloud", "lasso2d", "select2d"],
  topojsonURL: "",
  doubleClick: "reset",
};

function layoutOf(xTitle, yTitle, more = {}) {
  const axis = {
    gridcolor: colour("faint"),
    linecolor: colour("line"),
    zerolinecolor: colour("faint"),
    automargin: true,
    tickfont: { size: 11 },
  };
  return {
    paper_bgcolor: colour("ground"),
    plot_bgcolor: colour("ground"),
    font: { color: colour("ink"), size: 12 },
    margin: { l: 52, r: 12, t: 8, b: 40 },
    showlegend: false,
    hovermode: "closest",
    uirevision: "kept",
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("quiet"), activecolor: colour("accent") },
    hoverlabel: {
      bgcolor: colour("raised"),
      bordercolor: colour("line"),
      font: { color: colour("ink") },
      namelength: -1,
    },
    ...more,
    xaxis: { ...axis, title: { text: escaped(xTitle), font: { size: 12 } }, ...more.xaxis },
    yaxis: { ...axis, title: { text: escaped(yTitle), font: { size: 12 }, standoff: 6 }, ...more.yaxis },
  };
}

function draw(chart, traces, layout, more = {}) {
  chart.setAttribute("role", "img");
  return Plotly.react(chart, traces, layout, { ...PLOT_OPTIONS, ...more });
}

const clear = (chart) => {
  if (chart.data) Plotly.purge(chart);
};
