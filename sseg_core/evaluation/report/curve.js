// The threshold curve: a slider under it tells the score at each threshold.
(() => {
  "use strict";
  const slider = document.getElementById("threshold");
  if (!slider) return;
  const thresholds = JSON.parse(slider.dataset.thresholds), miou = JSON.parse(slider.dataset.miou);
  const mark = document.querySelector(".plot .here"), readout = document.getElementById("curve-readout");
  const box = document.querySelector(".plot .box");
  const show = () => {
    const at = Number(slider.value);
    mark.style.left = `${100 * thresholds[at]}%`;
    readout.textContent = `threshold ${thresholds[at].toFixed(2)}: ${miou[at].toFixed(2)} % mIoU`;
    slider.setAttribute("aria-valuetext", readout.textContent);
  };
  const point = (event) => {
    const edges = box.getBoundingClientRect();
    const wanted = (event.clientX - edges.left) / edges.width;
    const distances = thresholds.map((threshold) => Math.abs(threshold - wanted));
    slider.value = distances.indexOf(Math.min(...distances));
    show();
  };
  slider.addEventListener("input", show);
  box.addEventListener("pointermove", point);
  box.addEventListener("pointerdown", point);
  show();
})();
