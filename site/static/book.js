// Draws interactive figures when they are scrolled to; the library that draws them is fetched, from this site, with the first.
(() => {
  const home = document.currentScript.src.replace(/book\.js.*$/, "");
  let library;
  const plotly = () => library ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = home + "plotly.min.js";
    script.onload = () => resolve(window.Plotly);
    script.onerror = reject;
    document.head.append(script);
  });
  const draw = async (element) => {
    const figure = JSON.parse(element.querySelector("script").textContent);
    const Plotly = await plotly();
    element.replaceChildren();
    delete figure.layout.width;
    const layout = { ...figure.layout, autosize: true };
    await Plotly.newPlot(element, figure.data, layout, { responsive: true, displaylogo: false });
    if (figure.frames) await Plotly.addFrames(element, figure.frames);
    element.dataset.drawn = "true";
  };
  const watch = () => {
    const seen = new IntersectionObserver((entries) => entries.forEach((entry) => {
      if (!entry.isIntersecting) return;
      seen.unobserve(entry.target);
      draw(entry.target);
    }), { rootMargin: "400px" });
    document.querySelectorAll(".plotly-figure").forEach((element) => seen.observe(element));
  };
  document.readyState === "loading" ? document.addEventListener("DOMContentLoaded", watch) : watch();
})();
