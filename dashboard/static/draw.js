// Draws one Plotly figure into its place on the page, and tells of drags and clicks on it.
//
// The library comes from plotly.js beside this file, which holds the kinds of figures that the
// dashboard has and no others: Streamlit's own copy is four times as large, and reading it took a
// second of every page.

let library;

/** Load the library once for all figures. */
export function load(address) {
  library ??= import(address).then((module) => module.default);
  return library;
}

/** Draw the figure that `data` holds, or change the one that is there; returns the clean-up. */
export async function draw({ data, parentElement, setTriggerValue }, address) {
  const { figure, template, subject, dragged, clicked, bar } = JSON.parse(new TextDecoder().decode(data));
  const place = placeOf(parentElement);
  place.tell = setTriggerValue;
  // Its room is kept while the library loads, so that nothing below it jumps.
  place.style.height = `${figure.layout.height}px`;
  const order = (place.order = (place.order ?? 0) + 1);
  const plotly = await load(address);
  if (order !== place.order) return place.clean; // a newer figure is on its way
  figure.layout.template = template;
  figure.layout.font = { family: getComputedStyle(place).fontFamily, ...figure.layout.font };
  figure.layout.autosize = true;
  // What a reader has zoomed into stays while a run goes on; what was dragged over does not.
  figure.layout.uirevision = subject;
  figure.layout.selectionrevision = order;
  await plotly.react(place, figure.data, figure.layout, {
    displaylogo: false,
    displayModeBar: bar ? "hover" : false,
  });
  if (!place.clean) attend(place, plotly);
  place.wanted = { dragged, clicked };
  return place.clean;
}

function placeOf(parentElement) {
  const there = parentElement.querySelector(":scope > .bs-figure");
  if (there) return there;
  const made = document.createElement("div");
  made.className = "bs-figure";
  parentElement.appendChild(made);
  return made;
}

function attend(place, plotly) {
  place.on("plotly_selected", (event) => {
    const axis = Object.keys(event?.range ?? {}).find((name) => name.startsWith("x"));
    if (axis && place.wanted.dragged) place.tell("drag", event.range[axis].map(Number));
  });
  place.on("plotly_click", (event) => {
    const number = event?.points?.[0]?.customdata?.[0];
    if (place.wanted.clicked && Number.isFinite(number)) place.tell("click", number);
  });
  let width = place.clientWidth;
  const watch = new ResizeObserver(() => {
    if (!place.clientWidth || place.clientWidth === width) return;
    width = place.clientWidth;
    plotly.Plots.resize(place);
  });
  watch.observe(place);
  place.clean = () => {
    watch.disconnect();
    plotly.purge(place);
  };
}
