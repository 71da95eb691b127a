// What the pages do: interactive figures drawn when scrolled to, the divider of two pictures, boxes that scroll reached by the keyboard.
(() => {
  const home = document.currentScript.src.replace(/book\.js.*$/, "");
  const loaded = {};
  const load = (source) => loaded[source] ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = source;
    script.onload = resolve;
    script.onerror = () => reject(new Error(`${source} did not load`));
    document.head.append(script);
  });

  // Interactive figures, in the colours of the page.

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--pst-color-${name}`).trim();
  const dark = () => document.documentElement.dataset.theme === "dark";
  const dressed = ({ data, layout }) => {
    const copy = structuredClone({ data, layout: { ...layout, autosize: true, uirevision: "kept" } });
    delete copy.layout.width;
    if (!dark()) return copy;
    const [ink, paper, box, line] = ["text-base", "background", "surface", "border"].map(colour);
    Object.assign(copy.layout, { paper_bgcolor: paper, plot_bgcolor: paper, font: { ...copy.layout.font, color: ink } });
    if (copy.layout.legend) copy.layout.legend.bgcolor = "rgba(0,0,0,0)";
    for (const part of [copy.layout, copy.layout.scene ?? {}])
      for (const [name, axis] of Object.entries(part))
        if (/^[xyz]axis\d*$/.test(name)) Object.assign(axis, { color: ink, backgroundcolor: box, gridcolor: line, zerolinecolor: line });
    for (const trace of copy.data)
      for (const part of [trace.line, trace.marker]) if (/^(black|#000(000)?)$/.test(part?.color)) part.color = ink;
    return copy;
  };
  const figures = new Map();
  const draw = async (element) => {
    const name = element.dataset.figure.replace(/^.*\/|\.js$/g, "");
    await Promise.all([load(home + "plotly.min.js"), load(element.dataset.figure)]);
    const figure = window.bookFigures[name], { data, layout } = dressed(figure);
    element.replaceChildren();
    await window.Plotly.newPlot(element, data, layout, { responsive: true, displaylogo: false });
    figures.set(element, figure);
    element.setAttribute("role", "group");  // no longer one picture: it has buttons
    element.dataset.drawn = "true";
    if (layout.scene) turnable(element);
  };
  const turnable = (element) => {
    element.tabIndex = 0;
    element.setAttribute("aria-label", `${element.getAttribute("aria-label") ?? "Figure"} (the arrow keys turn it, + and − bring it nearer)`);
    element.addEventListener("keydown", (event) => {
      const turn = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] }[event.key];
      const scale = { "+": 0.9, "=": 0.9, "-": 1 / 0.9 }[event.key];
      if (event.ctrlKey || event.metaKey || event.altKey || !(turn || scale)) return;
      event.preventDefault();
      const camera = structuredClone(element._fullLayout.scene.camera), up = camera.up;
      camera.eye = turned(camera.eye, up, turn ?? [0, 0], scale ?? 1);
      window.Plotly.relayout(element, { "scene.camera": camera });
    });
  };
  // The eye on its sphere: round the axis that points up, and towards it.
  const turned = (eye, up, [around, higher], scale) => {
    const length = Math.hypot(up.x, up.y, up.z), [x, y, z] = [up.x / length, up.y / length, up.z / length];
    const along = eye.x * x + eye.y * y + eye.z * z, radius = Math.hypot(eye.x, eye.y, eye.z);
    const [c, s] = [Math.cos(around), Math.sin(around)];
    const spun = [
      eye.x * c + (y * eye.z - z * eye.y) * s + x * along * (1 - c),
      eye.y * c + (z * eye.x - x * eye.z) * s + y * along * (1 - c),
      eye.z * c + (x * eye.y - y * eye.x) * s + z * along * (1 - c),
    ];
    const height = Math.max(-1.5, Math.min(1.5, Math.asin(along / radius) + higher));
    const flat = spun.map((value, i) => value - along * [x, y, z][i]), across = Math.hypot(...flat) || 1;
    const [ex, ey, ez] = flat.map((value, i) => scale * radius * (value / across * Math.cos(height) + [x, y, z][i] * Math.sin(height)));
    return { x: ex, y: ey, z: ez };
  };
  const watchFigures = () => {
    const seen = new IntersectionObserver((entries) => entries.forEach((entry) => {
      if (!entry.isIntersecting) return;
      seen.unobserve(entry.target);
      draw(entry.target);
    }), { rootMargin: "400px" });
    document.querySelectorAll(".plotly-figure[data-figure]").forEach((element) => seen.observe(element));
    new MutationObserver(() => figures.forEach((figure, element) => {
      const { data, layout } = dressed(figure);
      window.Plotly.react(element, data, layout);
    })).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  };

  // Two pictures and the divider between them.

  const divide = (figure) => {
    const slider = figure.querySelector("input[type=range]");
    const move = () => {
      figure.style.setProperty("--split", `${slider.value}%`);
      slider.setAttribute("aria-valuetext", `${slider.value} percent`);
    };
    slider.addEventListener("input", move);
    move();
  };

  // The theme takes the focus from the button of a menu that opens; with it the keyboard would lose its place.
  document.addEventListener("shown.bs.dropdown", (event) => {
    const menu = event.target.parentElement.querySelector(".dropdown-menu");
    (menu?.querySelector(".active") ?? menu?.querySelector(".dropdown-item"))?.focus();
  });

  // Whatever scrolls sideways inside its box can be reached with the Tab key.

  const BOXES = { ".math": "Formula", ".pst-scrollable-table-container, .bd-article table": "Table", "dt.sig": "Signature",
    ".cell_output, .cell_output figure, .live-widget": "Output", "pre, .output": "Code" };
  const reachable = () => Object.entries(BOXES).forEach(([selector, label]) => document.querySelectorAll(selector).forEach((box) => {
    const scrolls = box.scrollWidth > box.clientWidth + 1 && /auto|scroll/.test(getComputedStyle(box).overflowX);
    if (scrolls && box.dataset.reach === undefined) {
      box.tabIndex = 0;
      box.dataset.reach = "";
      if (!box.hasAttribute("role") && !/^(TABLE|DT|FIGURE)$/.test(box.tagName)) {
        box.setAttribute("role", "group");
        box.setAttribute("aria-label", `${label}, scrolls sideways`);
      }
    } else if (!scrolls && box.dataset.reach !== undefined) {
      ["tabindex", "data-reach", "role", "aria-label"].forEach((name) => box.removeAttribute(name));
    }
  }));
  const watchBoxes = () => {
    let waiting;
    const soon = () => {
      clearTimeout(waiting);
      delete document.documentElement.dataset.settled;
      waiting = setTimeout(() => { reachable(); document.documentElement.dataset.settled = ""; }, 350);
    };
    addEventListener("resize", soon);
    new MutationObserver(soon).observe(document.getElementById("main-content"), { subtree: true, childList: true });
    document.addEventListener("toggle", soon, true);
    soon();
  };

  // A page opened from a folder may not read its neighbours: the search then lists pages without a passage of each.
  if (location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS !== "undefined") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

  const start = () => {
    watchFigures();
    document.querySelectorAll("figure.compare").forEach(divide);
    watchBoxes();
  };
  document.readyState === "loading" ? document.addEventListener("DOMContentLoaded", start) : start();
})();
