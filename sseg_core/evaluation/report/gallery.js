// The gallery: label maps painted over the photos, one opacity for all, one class lit at a time.
(() => {
  "use strict";
  const NONE = -3, VOID = -2; // no label is lit; a pixel that does not count
  const WHITE = 0xffffffff, DIM = 0xb40c0a08, STRIPE = 0xff8c8c8c, FAINT = 0xffaaa09a; // ABGR
  const mistakes = document.getElementById("mistakes");
  const opacity = document.getElementById("opacity");
  if (!opacity) return;
  if (!labelMaps.canUnpack) {
    opacity.closest(".toolbar").textContent = "This browser is too old to show label maps; any of 2023 or later can.";
    return;
  }

  const revive = async (article) => {
    const width = Number(article.dataset.width), height = Number(article.dataset.height);
    const labels = new Uint16Array(await labelMaps.unpacked(article.dataset.maps));
    const chips = [...article.querySelectorAll(".chip")];
    const names = new Map([[VOID, "does not count"]]), colors = new Map();
    for (const chip of chips) {
      const label = Number(chip.dataset.label);
      names.set(label, chip.querySelector("bdi").textContent);
      colors.set(label, labelMaps.abgr(chip.dataset.color));
    }
    const panels = [...article.querySelectorAll(".panel")].map((panel, index) => ({
      context: panel.querySelector("canvas").getContext("2d"),
      canvas: panel.querySelector("canvas"),
      under: panel.parentElement.querySelector(".under"),
      map: labels.subarray(index * width * height, (index + 1) * width * height),
    }));
    const truth = panels[0].map;
    let pointed = NONE, focused = NONE, held = NONE, shown = null;

    const paint = ({ context, map }, lit) => {
      const image = context.createImageData(width, height);
      const pixels = new Uint32Array(image.data.buffer);
      const wrongOnly = mistakes.checked;
      for (let y = 0, at = 0; y < height; y++) {
        for (let x = 0; x < width; x++, at++) {
          const label = map[at] + VOID;
          let color = 0;
          if (label === VOID) color = lit === NONE && ((x + y) >> 2) & 1 ? STRIPE : 0;
          else if (wrongOnly && (map === truth ? wrong[at] === 0 : map[at] === truth[at] || truth[at] === 0)) color = 0;
          else if (lit === NONE) color = label < 0 ? 0 : colors.get(label);
          else if (label === lit) color = label < 0 ? FAINT : colors.get(label);
          const edge = (x + 1 < width && map[at + 1] !== map[at]) || (y + 1 < height && map[at + width] !== map[at]);
          if (edge && (lit === NONE ? !wrongOnly : label === lit)) color = WHITE;
          pixels[at] = color === 0 && lit !== NONE ? DIM : color;
        }
      }
      context.putImageData(image, 0, 0);
    };

    const wrong = new Uint8Array(width * height); // where any prediction differs from the truth
    for (const { map } of panels.slice(1)) {
      for (let at = 0; at < wrong.length; at++) if (truth[at] !== 0 && map[at] !== truth[at]) wrong[at] = 1;
    }

    const draw = (again) => {
      const lit = pointed !== NONE ? pointed : focused !== NONE ? focused : held;
      if (lit === shown && !again) return;
      shown = lit;
      article.dataset.lit = lit === NONE ? "" : names.get(lit);
      for (const panel of panels) {
        paint(panel, lit);
        panel.canvas.style.opacity = lit === NONE ? "" : Math.max(0.85, opacity.value / 100);
        panel.under.textContent = lit === NONE ? "" : share(panel.map, lit);
      }
      for (const chip of chips) {
        chip.classList.toggle("lit", Number(chip.dataset.label) === lit);
        chip.setAttribute("aria-pressed", String(Number(chip.dataset.label) === held));
      }
    };

    const share = (map, label) => {
      let count = 0;
      for (let at = 0; at < map.length; at++) count += map[at] + VOID === label;
      return `${names.get(label)} ${((100 * count) / map.length).toFixed(1)} %`;
    };

    const place = (canvas, event) => {
      const box = canvas.getBoundingClientRect();
      const x = Math.min(width - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * width)));
      const y = Math.min(height - 1, Math.max(0, Math.floor(((event.clientY - box.top) / box.height) * height)));
      return y * width + x;
    };
    const hold = (label) => {
      held = held === label || label === VOID ? NONE : label;
      draw(true);
    };

    for (const { canvas, map } of panels) {
      const point = (event) => {
        const at = place(canvas, event);
        const label = map[at] + VOID;
        pointed = label === VOID ? NONE : label;
        draw(false);
        for (const panel of panels) panel.under.textContent = names.get(panel.map[at] + VOID);
      };
      canvas.addEventListener("pointermove", point);
      canvas.addEventListener("pointerleave", () => { pointed = NONE; draw(true); });
      canvas.addEventListener("click", (event) => hold(map[place(canvas, event)] + VOID));
    }
    for (const chip of chips) {
      const label = Number(chip.dataset.label);
      chip.addEventListener("pointerenter", () => { pointed = label; draw(false); });
      chip.addEventListener("pointerleave", () => { pointed = NONE; draw(false); });
      chip.addEventListener("focus", () => { if (chip.matches(":focus-visible")) focused = label; draw(false); });
      chip.addEventListener("blur", () => { focused = NONE; draw(false); });
      chip.addEventListener("click", () => hold(label));
      chip.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        if (!step) return;
        event.preventDefault();
        const next = chips[(chips.indexOf(chip) + step + chips.length) % chips.length];
        chip.tabIndex = -1;
        next.tabIndex = 0;
        next.focus();
      });
    }
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && (held !== NONE || focused !== NONE)) { held = focused = NONE; draw(true); }
    });
    mistakes.addEventListener("change", () => draw(true));
    draw(true);
    article.dataset.ready = "";
  };

  const fade = () => document.documentElement.style.setProperty("--opacity", opacity.value / 100);
  opacity.addEventListener("input", fade);
  fade(); // a reload may keep the slider's place
  document.querySelectorAll(".photo").forEach(revive);
})();
