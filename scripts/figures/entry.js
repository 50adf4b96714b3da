import Plotly from "plotly.js/lib/core";
import bar from "plotly.js/lib/bar";
import heatmap from "plotly.js/lib/heatmap";
import icicle from "plotly.js/lib/icicle";

// Scatter is part of the core.
Plotly.register([bar, heatmap, icicle]);
export default Plotly;
