// The parts of the viewer that are made of what an image holds. Names come from strangers: they enter
// the page as text and never as markup.
const building = {
  MANY: 12, // more names of classes that were not found are only counted

  plural: (count, one, many) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`,
  percent: (share) => (share < 0.001 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`),
  sure: ({ probability }) => (probability === null ? "" : probability.toFixed(2)),

  made(tag, className = "", ...inside) {
    const node = document.createElement(tag);
    if (className) node.className = className;
    node.append(...inside);
    return node;
  },

  button(className, title, ...inside) {
    const button = building.made("button", className, ...inside);
    button.type = "button";
    button.title = title;
    return button;
  },

  // A class of the legend: colour, name, share, probability, and a bar.
  row(entry) {
    const { made, percent, sure } = building;
    const swatch = made("span", "swatch"), bar = made("span", "bar");
    swatch.style.background = bar.style.background = entry.color;
    bar.style.width = `${100 * entry.share}%`;
    return made("li", "", building.button(
      "row", entry.name, swatch, made("bdi", "", entry.name), made("span", "number", percent(entry.share)),
      made("span", "number sure", sure(entry)), made("span", "track", bar),
    ));
  },

  // A line on the classes that an image does not have.
  missing(names) {
    if (!names.length) return [];
    const few = names.slice(0, building.MANY);
    const words = few.flatMap((name, index) => { // the comma stays with its name
      const end = index < few.length - 1 ? "," : ".";
      return [building.made("span", "", building.made("bdi", "", name), end), " "];
    });
    const all = few.length === names.length;
    return [`Not found: ${all ? "" : `${building.plural(names.length, "class", "classes")}, such as `}`, ...words];
  },

  thumb(head) {
    const image = new Image();
    image.loading = "lazy";
    image.alt = "";
    image.width = head.width; // its shape: nothing moves when it is loaded
    image.height = head.height;
    image.src = head.thumb;
    const button = building.button("", head.title, image);
    button.tabIndex = -1;
    button.setAttribute("aria-label", head.title);
    return building.made("li", "", button);
  },

  // Bring an item of a list into its view without moving the page, as scrollIntoView would.
  reveal(list, item) {
    const to = {}; // in one go: a second scroll would stop the first
    for (const [side, extent] of [["Left", "Width"], ["Top", "Height"]]) {
      const start = item[`offset${side}`]; // the list is positioned
      const room = list[`client${extent}`] - item[`offset${extent}`];
      const at = list[`scroll${side}`];
      to[side.toLowerCase()] = start < at || start > at + room ? start - room / 2 : at;
    }
    list.scrollTo(to);
  },
};
