"use strict";
// Figures: drawn to the width of the page, in its colours, one after another so that the page stays responsive.
const page = document.documentElement;
const figures = JSON.parse(document.getElementById("figure-data").textContent);
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
const PRINTED_WIDTH = 700;
const CONFIG = { displaylogo: false, displayModeBar: matchMedia("(hover: hover)").matches ? "hover" : false };

function setTheme(theme) {
  page.dataset.theme = theme;
  document.getElementById("theme").textContent = theme === "dark" ? "Light" : "Dark";
}

// Black and dark colours would vanish on a dark page.
function lightened(value, key) {
  if (typeof value === "string") return key.toLowerCase().endsWith("color") ? lighter(value) : value;
  if (Array.isArray(value)) return value.map((item) => lightened(item, key));
  if (value && typeof value === "object")
    return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, lightened(item, name)]));
  return value;
}

function lighter(colour) {
  if (/^#(000|000000|444|555|2a3f5f)$/i.test(colour)) return "#f2f2f2";
  if (/^rgba\(0, ?0, ?0,/.test(colour)) return colour.replace(/^rgba\(0, ?0, ?0,/, "rgba(242,242,242,");
  if (!/^#[0-9a-f]{6}$/i.test(colour)) return colour;
  const [r, g, b] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  const mixed = [r, g, b].map((part) => Math.round((part + 255) / 2));
  return 0.21 * r + 0.72 * g + 0.07 * b < 75 ? `rgb(${mixed})` : colour;
}

function inColours(figure) {
  const style = getComputedStyle(page);
  const [text, soft, grid, panel] = ["--text", "--soft", "--grid", "--panel"].map((name) => style.getPropertyValue(name));
  const { data, layout } = page.dataset.theme === "dark" ? lightened(figure, "") : structuredClone(figure);
  Object.assign(layout, { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)" });
  layout.font.color = text;
  layout.modebar = { bgcolor: "rgba(0,0,0,0)", color: soft, activecolor: text };
  for (const axis of Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key)))
    Object.assign(layout[axis], { gridcolor: grid, linecolor: grid, zerolinecolor: grid });
  for (const slider of layout.sliders || [])
    Object.assign(slider, { bgcolor: panel, bordercolor: grid, font: { color: text } });
  return { data, layout };
}

// The page has the title as a heading. Narrow figures get their legend below; on a screen, panels that need more
// room scroll sideways.
function fitted(data, layout, width, printed) {
  const axes = Object.keys(layout).filter((key) => /^xaxis\d*$/.test(key));
  const columns = new Set(axes.map((key) => (layout[key].domain || [0])[0])).size;
  layout.width = Math.max(width, printed ? 0 : columns * (columns > 3 ? 165 : columns > 1 ? 230 : 300));
  delete layout.title;
  layout.margin.t -= 45;
  if (layout.width < 500) {
    layout.legend = { orientation: "h", x: 0, y: -0.18, yanchor: "top", font: { size: 11 } };
    Object.assign(layout.margin, { l: Math.min(layout.margin.l, 60), r: 12 });
    layout.height += 60;
    layout.font.size = 11;
  }
  const legendAbove = layout.showlegend !== false && layout.legend.orientation === "h" && layout.legend.y > 0;
  if (!legendAbove || data.every((trace) => trace.type === "heatmap")) layout.margin.t = layout.annotations ? 40 : 15;
  if (layout.width / columns < 330) {
    for (const note of layout.annotations || []) note.font = { size: 10 };
    for (const axis of axes) if (layout[axis].title) layout[axis].title.font = { size: 10 };
  }
}

async function draw(name, printed) {
  const place = document.getElementById(`figure-${name}`), { data, layout } = inColours(figures[name]);
  fitted(data, layout, printed ? PRINTED_WIDTH : place.parentElement.clientWidth, printed);
  const chosen = place.layout?.sliders?.[0].active;
  place.style.minHeight = "0";
  await Plotly.react(place, data, layout, CONFIG);
  if (chosen !== undefined) {
    await Plotly.restyle(place, ...layout.sliders[0].steps[chosen].args);
    await Plotly.relayout(place, { "sliders[0].active": chosen });
  }
}

let drawing = 0;
async function drawAll() {
  const own = ++drawing;  // a later call takes over
  page.dataset.drawn = "no";
  for (const name of Object.keys(figures)) {
    await draw(name, false);
    await new Promise((next) => setTimeout(next));
    if (own !== drawing) return;
  }
  page.dataset.drawn = "yes";
}

document.getElementById("theme").addEventListener("click", () => {
  setTheme(page.dataset.theme === "dark" ? "light" : "dark");
  drawAll();
});
prefersDark.addEventListener("change", () => {
  setTheme(prefersDark.matches ? "dark" : "light");
  drawAll();
});

let width = innerWidth, resizing;
addEventListener("resize", () => {
  if (width === innerWidth) return;  // a phone hides its address bar
  width = innerWidth;
  clearTimeout(resizing);
  resizing = setTimeout(drawAll, 200);
});

// Paper is light, and shows what is folded.
let beforePrinting;
addEventListener("beforeprint", () => {
  beforePrinting = { theme: page.dataset.theme, folded: document.querySelectorAll("details:not([open])") };
  drawing += 1;
  setTheme("light");
  for (const details of beforePrinting.folded) details.open = true;
  for (const name of Object.keys(figures)) draw(name, true);
});
addEventListener("afterprint", () => {
  setTheme(beforePrinting.theme);
  for (const details of beforePrinting.folded) details.open = false;
  drawAll();
});

setTheme(prefersDark.matches ? "dark" : "light");
drawAll();
