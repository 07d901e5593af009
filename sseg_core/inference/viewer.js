// The viewer: one image at a time, its classes named under the pointer, one of them alone on a click.
(() => {
  "use strict";
  const NONE = -1; // no place in a legend
  const GLANCE = 0.34, ALONE = 0.78; // how dark all else is, pointed at a class or holding it
  const element = (id) => document.getElementById(id);
  const main = document.querySelector("main");
  const heads = [...document.querySelectorAll("script.head")].map((script) => JSON.parse(script.textContent));
  const bodies = [...document.querySelectorAll("script.body")]; // read when they are shown
  const asked = JSON.parse(element("asked").textContent);
  const stage = element("stage"), picture = element("picture"), tip = element("tip");
  const legend = element("legend"), thumbs = element("thumbs"), strip = element("strip");
  const opacity = element("opacity"), search = element("search"), help = element("help");

  let order = heads.map((_, index) => index); // the images that the search leaves
  let current = NONE, wanted = NONE; // indices of the image that is there, and of the one to come
  let loading = false, turns = 0; // how often the image changed
  let map = null; // the label map of the image; null where it cannot be unpacked
  let pointed = NONE, focused = NONE, released = NONE; // places in the legend
  let heldClass = null; // index of the class that stays lit, in this image and the next
  let drawn = "";

  const { percent, plural, sure } = building;
  const images = plural(heads.length, "image", "images"), classes = plural(asked.length, "class", "classes");
  const entries = () => heads[current].legend;
  const held = () => (heldClass === null ? NONE : entries().findIndex(({ index }) => index === heldClass));
  const seen = () => [held(), focused, pointed].find((value) => value !== NONE) ?? NONE; // what is lit
  const say = (text) => { element("said").textContent = text; };

  // --- what is lit ---------------------------------------------------------------------------

  const place = (x, y) => { // of the tip: above a point of the stage, and inside it
    const left = Math.max(0, Math.min(stage.clientWidth - tip.offsetWidth, x - tip.offsetWidth / 2));
    const above = y - tip.offsetHeight - 16;
    const top = above >= 0 ? above : Math.min(stage.clientHeight - tip.offsetHeight, y + 22);
    tip.style.transform = `translate(${Math.round(left)}px, ${Math.round(top)}px)`;
  };

  const tell = (value, event) => { // in the tip, at the pointer or on the region
    tip.hidden = value === NONE;
    if (tip.hidden) return;
    const entry = entries()[value];
    tip.querySelector(".swatch").style.background = entry.color;
    tip.querySelector("bdi").textContent = entry.name;
    tip.querySelector("small").textContent = [percent(entry.share), sure(entry)].filter(Boolean).join("  \u00b7  ");
    const outer = stage.getBoundingClientRect(), inner = picture.getBoundingClientRect();
    if (event) return place(event.clientX - outer.left, event.clientY - outer.top);
    const [x, y] = (map && painting.middle(map, value)) || [0.5, 0.5];
    place(inner.left - outer.left + x * inner.width, inner.top - outer.top + y * inner.height);
  };

  const draw = () => {
    const alone = held(), lit = seen();
    const state = `${turns} ${lit} ${alone}`;
    if (state === drawn) return;
    drawn = state;
    main.dataset.lit = lit === NONE ? "" : entries()[lit].name;
    element("lit").classList.toggle("on", lit !== NONE);
    if (lit !== NONE && map) painting.alone(element("lit"), map, lit, alone === lit ? ALONE : GLANCE);
    [...legend.querySelectorAll("button")].forEach((row, value) => {
      row.classList.toggle("lit", value === lit);
      row.setAttribute("aria-pressed", String(value === alone));
    });
    if (lit === NONE) return say("All classes.");
    const { name, share, probability } = entries()[lit];
    const belief = probability === null ? "" : `, mean probability ${probability.toFixed(2)}`;
    say(`${name}: ${percent(share)} of the image${belief}.`);
  };

  const hold = (value, event) => { // again the same one, or none: let go
    const before = held();
    heldClass = value === NONE || value === before ? null : entries()[value].index;
    released = heldClass === null ? before : NONE;
    pointed = focused = NONE;
    draw();
    tell(held(), event);
    const row = legend.querySelectorAll("button")[held()];
    if (row) building.reveal(legend, row);
  };

  // --- an image --------------------------------------------------------------------------------

  const show = async (index) => { // keys may ask for images faster than they can be read
    wanted = index;
    if (loading) return;
    loading = true;
    try {
      while (current !== wanted) await load(wanted);
    } finally {
      loading = false;
    }
  };

  const load = async (index) => {
    const head = heads[index], body = JSON.parse(bodies[index].textContent);
    const photo = new Image();
    photo.src = body.photo;
    photo.alt = head.title;
    const [buffer] = await Promise.all([
      labelMaps.canUnpack ? labelMaps.unpacked(body.labels) : null,
      photo.decode().catch(() => {}), // a picture that the browser cannot draw leaves its classes
    ]);
    current = index;
    turns++;
    pointed = focused = released = NONE;
    map = buffer && {
      values: body.bytes === 1 ? new Uint8Array(buffer) : new Uint16Array(buffer),
      width: body.width,
      height: body.height,
      colors: Uint32Array.from(head.legend, (entry) => (entry.index < 0 ? 0 : labelMaps.abgr(entry.color))),
    };
    picture.querySelector("img")?.remove();
    picture.prepend(photo);
    picture.style.setProperty("--ratio", body.width / body.height);
    if (map) painting.classes(element("classes"), map);
    list(head.legend);
    element("folder").textContent = head.folder;
    element("name").textContent = head.title;
    element("name").parentElement.title = head.folder + head.title;
    element("size").textContent = `${head.width} \u00d7 ${head.height}`;
    thumbs.querySelector("[aria-current]")?.removeAttribute("aria-current");
    const thumb = thumbs.querySelectorAll("button")[index];
    if (thumb) {
      for (const other of thumbs.querySelectorAll("[tabindex='0']")) other.tabIndex = -1;
      thumb.setAttribute("aria-current", "true");
      thumb.tabIndex = 0;
      if (thumbs.contains(document.activeElement)) thumb.focus({ preventScroll: true });
      building.reveal(thumbs, thumb);
    }
    count();
    fit();
    draw();
    tell(held());
    const missed = heldClass !== null && held() === NONE ? ` There is no ${asked[heldClass] ?? "background"} in it.` : "";
    say(`${head.title} ${element("place").textContent}.${missed}`);
    main.dataset.ready = String(index);
  };

  const list = (found) => {
    const busy = legend.contains(document.activeElement); // the keyboard stays in the list
    main.classList.toggle("unsure", found.every((entry) => entry.probability === null));
    legend.replaceChildren(...found.map((entry, value) => {
      const item = building.row(entry), row = item.firstChild;
      row.addEventListener("pointerenter", (event) => { if (event.pointerType !== "touch") glance(value); });
      row.addEventListener("pointerleave", () => glance(NONE));
      row.addEventListener("focus", () => { focused = row.matches(":focus-visible") ? value : NONE; draw(); tell(seen()); });
      row.addEventListener("blur", () => { focused = NONE; draw(); tell(seen()); });
      row.addEventListener("click", () => hold(value));
      return item;
    }));
    if (busy) legend.querySelectorAll("button")[Math.max(0, held())].focus();
    const there = new Set(found.map(({ index }) => index));
    element("missing").replaceChildren(...building.missing(asked.filter((_, index) => !there.has(index))));
  };

  const glance = (value) => { pointed = value; draw(); tell(seen()); };

  const count = () => {
    const at = order.indexOf(current);
    element("place").textContent = heads.length > 1 ? `${at + 1} of ${order.length}` : "";
    element("previous").disabled = at <= 0;
    element("next").disabled = at === order.length - 1;
  };

  const step = (by) => {
    const to = order[Math.max(0, Math.min(order.length - 1, order.indexOf(wanted) + by))];
    if (to !== undefined && to !== wanted) show(to);
  };

  const walk = (by) => { // through the classes of the legend
    const size = entries().length, from = seen();
    const to = from === NONE ? (by > 0 ? 0 : size - 1) : (from + by + size) % size;
    if (to !== held()) hold(to);
    if (legend.contains(document.activeElement)) legend.querySelectorAll("button")[to].focus();
  };

  // --- how it is shown -------------------------------------------------------------------------

  const fade = () => {
    main.style.setProperty("--opacity", opacity.value / 100);
    element("percent").textContent = `${opacity.value} %`;
  };
  const look = (view) => {
    main.dataset.view = main.dataset.view === view ? "both" : view;
    for (const button of document.querySelectorAll("button[data-view]")) {
      button.setAttribute("aria-pressed", String(button.dataset.view === main.dataset.view));
    }
  };
  const spread = () => {
    element("spread").setAttribute("aria-pressed", String(strip.classList.toggle("spread")));
    building.reveal(thumbs, thumbs.querySelector("[aria-current]"));
  };
  const fit = () => picture.classList.toggle("enlarged", !!map && picture.clientWidth * devicePixelRatio > 1.5 * map.width);

  // --- search ----------------------------------------------------------------------------------

  const folded = (text) => text.normalize("NFKD").toLowerCase().trim();
  const words = asked.map(folded);

  const filter = () => {
    const word = folded(search.value);
    const matching = new Set([...words.keys()].filter((index) => words[index].includes(word)));
    order = [...heads.keys()].filter((image) => !word || heads[image].legend.some(({ index }) => matching.has(index)));
    const kept = new Set(order);
    [...thumbs.children].forEach((item, image) => { item.hidden = !kept.has(image); });
    const hits = `${order.length.toLocaleString("en")} of ${images}`;
    element("hits").textContent = word ? hits : "";
    const exact = words.indexOf(word);
    const only = exact >= 0 ? exact : matching.size === 1 ? [...matching][0] : null;
    heldClass = word ? only : null;
    if (order.length && !kept.has(wanted)) return show(order[0]);
    if (current === NONE) return;
    draw();
    tell(held());
    count();
  };

  // --- pointer and keys ------------------------------------------------------------------------

  const under = ({ clientX, clientY }) => painting.under(map, picture.getBoundingClientRect(), clientX, clientY);
  let finger = null; // where it came down
  picture.addEventListener("pointermove", (event) => {
    if (!map || event.pointerType === "touch") return;
    const value = under(event);
    if (value !== released) released = NONE;
    pointed = value === released ? NONE : value;
    draw();
    tell(value, event);
  });
  picture.addEventListener("pointerleave", (event) => {
    if (event.pointerType === "touch") return;
    released = NONE;
    glance(NONE);
  });
  picture.addEventListener("click", (event) => { if (map) hold(under(event), event); });
  picture.addEventListener("pointerdown", (event) => {
    finger = event.pointerType === "touch" && event.isPrimary ? event : null;
  });
  picture.addEventListener("pointerup", (event) => {
    if (!finger || (window.visualViewport?.scale ?? 1) > 1.01) return;
    const across = event.clientX - finger.clientX, down = event.clientY - finger.clientY;
    if (Math.abs(across) > 48 && Math.abs(across) > 2 * Math.abs(down)) step(across < 0 ? 1 : -1);
  });

  const bigger = (by) => { opacity.value = Number(opacity.value) + by; fade(); };
  const keys = {
    ArrowLeft: () => step(-1), ArrowRight: () => step(1),
    ArrowUp: () => walk(-1), ArrowDown: () => walk(1),
    Home: () => step(-heads.length), End: () => step(heads.length),
    Escape: () => hold(NONE),
    "+": () => bigger(10), "=": () => bigger(10), "-": () => bigger(-10),
    p: () => look("photo"), l: () => look("labels"),
    g: () => { if (!strip.hidden) spread(); },
    "/": () => search.focus(),
    "?": () => help.showModal(),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || help.open || current === NONE) return;
    if (event.target === search) {
      if (event.key === "Enter") search.blur();
      return;
    }
    const moves = /^(Arrow|Home|End)/.test(event.key);
    const act = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!act || (moves && event.target === opacity)) return;
    event.preventDefault();
    act();
  });

  element("previous").addEventListener("click", () => step(-1));
  element("next").addEventListener("click", () => step(1));
  element("ask").addEventListener("click", () => help.showModal());
  help.addEventListener("click", (event) => { if (event.target === help) help.close(); });
  element("spread").addEventListener("click", spread);
  for (const view of ["photo", "labels"]) {
    document.querySelector(`button[data-view=${view}]`).addEventListener("click", () => look(view));
  }
  opacity.addEventListener("input", fade);
  opacity.addEventListener("pointerup", () => opacity.blur()); // the arrow keys are for images again
  search.addEventListener("input", filter);
  new ResizeObserver(fit).observe(picture);

  // --- the page --------------------------------------------------------------------------------

  fade(); // a reload may keep the slider's place
  if (!labelMaps.canUnpack) {
    const line = "This browser is too old to show the classes in the image; any of 2023 or later can.";
    element("tools").before(building.made("p", "old", line));
    element("tools").hidden = true;
  }
  element("summary").textContent = `${images}, asked for ${classes}`;
  if (heads.length > 1) {
    for (const id of ["previous", "next", "find", "strip"]) element(id).hidden = false;
    thumbs.append(...heads.map((head, index) => {
      const item = building.thumb(head);
      item.firstChild.addEventListener("click", () => show(index));
      return item;
    }));
    const everywhere = new Set(heads.flatMap((head) => head.legend.map(({ index }) => index)));
    const found = [...everywhere].filter((index) => index >= 0);
    element("names").append(...found.map((index) => new Option(asked[index])));
  }
  if (heads.length) show(0);
})();
