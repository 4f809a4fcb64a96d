"use strict";

/* The page without this script shows the facts, the verdict, the figures and the tables. The script sorts, searches
   and copies the tables, switches checkpoints, and shows the questions. It never reads text as markup: elements are
   made by `made`, and texts become text nodes. */

// ---------------------------------------------------------------------------------------------------- elements

/** An element. attributes: by name; children: elements, and texts as they are. */
function made(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Foreign text, whose writing direction is its own. Lines stay lines. */
const foreign = (text) => made("bdi", {}, text);

/** A number to three significant digits; a dash for none. */
const digits = (value) => (value === null ? "–" : String(Number(value.toPrecision(3))));

const percent = (value) => `${Number((100 * value).toPrecision(3))} %`;

/** The data in a script element, read when it is asked for; null where it was left out. */
function data(id) {
  const block = document.getElementById(id);
  return block && JSON.parse(block.textContent);
}

const SPANS = data("spans");
document.documentElement.classList.add("script");

// ------------------------------------------------------------------------------------------------------- theme

const dark = matchMedia("(prefers-color-scheme: dark)");

function themed(theme) {
  document.documentElement.dataset.theme = theme;
  document.getElementById("theme").textContent = theme === "dark" ? "Light page" : "Dark page";
}

/** Files opened from the disk may have no storage: then the choice holds until the page is closed. */
function remembered(theme) {
  try {
    if (theme) localStorage.setItem("theme", theme);
    return localStorage.getItem("theme");
  } catch {
    return null;
  }
}

document.getElementById("theme").addEventListener("click", () => {
  const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  themed(theme);
  remembered(theme);
});
themed(remembered() ?? (dark.matches ? "dark" : "light"));

// ------------------------------------------------------------------------------------------------------ tables

/** What a row is sorted by: numbers by value, texts by their letters; null for a number without a value. */
function sortKey(row, column) {
  const { value } = row.cells[column].dataset;
  if (value === undefined) return row.cells[column].textContent;
  return value === "" ? null : Number(value);
}

/** Compares two keys; what has no value comes last in both directions. */
function compared(one, other, direction) {
  if (one === null || other === null) return (one === null) - (other === null);
  const order = typeof one === "string" ? one.localeCompare(other, "en", { numeric: true }) : one - other;
  return direction * order;
}

function sortTable(table, column) {
  const headings = [...table.tHead.rows[0].cells];
  const direction = headings[column].getAttribute("aria-sort") === "ascending" ? -1 : 1;
  headings.forEach((heading) => heading.removeAttribute("aria-sort"));
  headings[column].setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
  const rows = [...table.tBodies[0].rows];
  rows.sort((a, b) => compared(sortKey(a, column), sortKey(b, column), direction));
  table.tBodies[0].append(...rows);
}

function searchTable(part, text) {
  const rows = [...part.querySelectorAll("tbody tr")];
  for (const row of rows) row.classList.toggle("unmatched", !found(row.textContent, text));
  const count = rows.filter((row) => !row.classList.contains("unmatched")).length;
  part.querySelector(".status").textContent = text ? `${count} of ${rows.length} rows` : "";
}

/** Whether a text holds another, whatever their case and however their characters are composed. */
const found = (text, wanted) => folded(text).includes(folded(wanted));
const folded = (text) => text.normalize("NFKC").toLowerCase();

/** Copies a text, or leaves it selected where the browser allows no copying. */
async function copied(text, status) {
  try {
    await navigator.clipboard.writeText(text);
    status.textContent = "Copied.";
  } catch {
    const area = made("textarea", { class: "copied", "aria-label": "The text to copy", rows: 6 });
    area.value = text;
    status.replaceChildren("Press Ctrl+C to copy. ", area);
    area.select();
    if (document.execCommand("copy")) status.textContent = "Copied.";
  }
}

/** Keeps the columns of names in sight while a wide table scrolls: as many as fit into half of what is seen of it. */
function pinNames(table) {
  const headings = [...table.tHead.rows[0].cells];
  const names = headings.slice(0, Math.max(0, headings.findIndex((heading) => heading.classList.contains("number"))));
  const room = table.parentElement.clientWidth / 2;
  let left = 0;
  for (const [column, heading] of names.entries()) {
    for (const row of table.rows) {
      row.cells[column].style.left = `${left}px`;
      row.cells[column].classList.toggle("pinned", left + heading.offsetWidth <= room);
    }
    left += heading.offsetWidth;
  }
}

function prepareTable(part) {
  const table = part.querySelector("table");
  const observer = new ResizeObserver(() => pinNames(table));
  for (const element of [table.parentElement, ...table.tHead.rows[0].cells]) observer.observe(element);
  for (const [column, heading] of [...table.tHead.rows[0].cells].entries()) {
    const button = made("button", { type: "button" }, ...heading.childNodes);
    button.addEventListener("click", () => sortTable(table, column));
    heading.append(button);
  }
  part.querySelector(".table-search").addEventListener("input", (event) => searchTable(part, event.target.value));
  for (const button of part.querySelectorAll(".copy")) {
    button.addEventListener("click", () => {
      const copies = data(`${part.closest(".run").id}-copies`);
      copied(copies[part.id][button.dataset.form], part.querySelector(".status"));
    });
  }
}

document.querySelectorAll(".table").forEach(prepareTable);

// ------------------------------------------------------------------------------------------------- checkpoints

/** Shows what belongs to the ticked checkpoints of a run: figures, rows, and parts of figures. */
function switchSeries(run) {
  for (const box of run.querySelectorAll(".series input")) {
    for (const part of run.querySelectorAll(`[data-series="${box.value}"]`)) {
      part.classList.toggle("off", !box.checked);
    }
  }
}

document.querySelectorAll(".series").forEach((boxes) => {
  boxes.addEventListener("change", () => switchSeries(boxes.closest(".run")));
  switchSeries(boxes.closest(".run")); // a browser that reloads a page keeps what was ticked
});

// ---------------------------------------------------------------------------------------------- prompts in colour

/** Red, green and blue of #rrggbb, from 0 to 255. */
const channels = (colour) => [1, 3, 5].map((start) => parseInt(colour.slice(start, start + 2), 16));

/** A colour on white paper that black text stands on: a fifth of it. */
const tint = (colour) => `rgb(${channels(colour).map((c) => Math.round(255 - 0.2 * (255 - c))).join(" ")})`;

/** Black or white, whichever contrasts more with a colour (WCAG's relative luminance). */
function inkOn(colour) {
  const linear = channels(colour).map((c) => (c / 255 <= 0.04045 ? c / 3294.6 : ((c / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] > 0.179 ? "#000000" : "#ffffff";
}

/** The colour of a number between -limit and limit. */
function shadeOf(shades, value) {
  const place = Math.min(1, Math.max(0, (value / shades.limit + 1) / 2));
  return shades.colours[Math.round(place * (shades.colours.length - 1))];
}

/** A token as it is shown: the end of a line is ↵ and ends the line. */
const written = (token) => token.replaceAll("\n", "↵\n");

function spanToken(side, index) {
  const [name, colour] = SPANS[side.spans[index]];
  const token = made("span", { title: name }, written(side.tokens[index]));
  token.style.backgroundColor = tint(colour);
  token.style.borderBottomColor = colour;
  return token;
}

function shadedToken(side, shades, index) {
  const value = shades.values[index];
  const token = made("span", { title: value === null ? "no number" : digits(value) }, written(side.tokens[index]));
  if (value !== null) {
    token.style.backgroundColor = shadeOf(shades, value);
    token.style.color = inkOn(shadeOf(shades, value));
  }
  return token;
}

function spanLegend(side) {
  const present = SPANS.filter((_, index) => side.spans.includes(index));
  return made("ul", { class: "legend" }, ...present.map(([name, colour]) => {
    const chip = made("span", { class: "chip" });
    chip.style.backgroundColor = tint(colour);
    chip.style.borderBottomColor = colour;
    return made("li", {}, chip, name);
  }));
}

function shadeLegend(shades) {
  const bar = made("span", { class: "gradient" });
  bar.style.backgroundImage = `linear-gradient(to right, ${shades.colours.join(", ")})`;
  return made("p", { class: "legend" }, foreign(shades.low), bar, foreign(shades.high));
}

/** The tokens with their spans and numbers, for who cannot see or point at the colours. */
function tokenTable(side) {
  const header = ["token", "span", ...side.shades.map((shades) => shades.title)];
  const rows = side.tokens.map((token, index) => [
    written(token),
    SPANS[side.spans[index]][0],
    ...side.shades.map((shades) => digits(shades.values[index])),
  ]);
  return smallTable(header, rows, "The tokens of the prompt");
}

/** A details element whose content is made when it is first opened. */
function unfolding(title, content) {
  const details = made("details", {}, made("summary", {}, title));
  details.addEventListener("toggle", () => details.append(content()), { once: true });
  return details;
}

/** A side's prompt, shaded by spans or by the numbers of this title. */
function prompt(side, title) {
  const shades = side.shades.find((one) => one.title === title);
  const token = shades ? (_, index) => shadedToken(side, shades, index) : (_, index) => spanToken(side, index);
  return [
    shades ? shadeLegend(shades) : spanLegend(side),
    made("div", { class: "paper" }, made("p", { class: "tokens", dir: "auto" }, ...side.tokens.map(token))),
    unfolding("The tokens as a table", () => tokenTable(side)),
  ];
}

// ----------------------------------------------------------------------------------------- confidences and tables

function smallTable(header, rows, label) {
  const cell = (tag, scope) => (text) => made(tag, scope ? { scope } : {}, foreign(text));
  const body = rows.map(([first, ...rest]) => made("tr", {}, cell("th", "row")(first), ...rest.map(cell("td"))));
  const head = made("thead", {}, made("tr", {}, ...header.map(cell("th", "col"))));
  const table = made("table", {}, made("caption", { class: "unseen" }, label), head, made("tbody", {}, ...body));
  return made("div", { class: "scroll", role: "group", tabindex: 0, "aria-label": label }, table);
}

/** The end of the scale of all bars of a question: the first of these that no probability exceeds. */
function scaleOf(sides) {
  const rows = sides.flatMap((side) => side.bars.flatMap((bars) => bars.rows));
  const largest = Math.max(0, ...rows.flatMap((row) => row.probability));
  return [0.1, 0.25, 0.5, 0.75].find((end) => largest <= end) ?? 1;
}

function chart(levels, row, scale) {
  const words = row.probability.map((probability, index) => `${levels[index]}: ${percent(probability)}`);
  const columns = row.probability.map((probability, index) => {
    const bar = made("span");
    bar.style.height = `${(100 * probability) / scale}%`;
    return made("span", { title: words[index] }, bar);
  });
  return made("div", { class: "chart", role: "img", "aria-label": words.join(", ") }, ...columns);
}

/** The names of the levels below a chart; of many levels every few. */
function axis(levels) {
  const step = Math.ceil(levels.length / 11);
  const names = levels.map((level, index) => made("span", {}, index % step ? "" : foreign(level)));
  return made("div", { class: "axis", "aria-hidden": "true" }, ...names);
}

function barRow(levels, row, scale) {
  const label = made("p", { class: "whose" }, foreign(row.label));
  if (row.text) label.append(": ", made("q", {}, foreign(row.text)));
  const numbers = made("p", { class: "numbers" }, `expected ${digits(row.expected)}`);
  numbers.append(made("br"), `off-scale ${percent(row.outside)}`);
  return made("div", { class: "bar-row" }, label, made("div", {}, chart(levels, row, scale), axis(levels)), numbers);
}

function barsPart(bars, scale, level) {
  const title = made(`h${level}`, {}, foreign(bars.title));
  const note = made("p", { class: "note" }, `Probability of each level, bars from 0 to ${percent(scale)}.`);
  return made("section", { class: "bars" }, title, note, ...bars.rows.map((row) => barRow(bars.levels, row, scale)));
}

function tablePart(table, level) {
  return made("section", {}, made(`h${level}`, {}, foreign(table.title)), smallTable(table.header, table.rows, table.title));
}

// --------------------------------------------------------------------------------------------- one opened question

/** Classes of marks that have a colour; words that other marks use mean nothing here. */
const MARK_COLOURS = Object.freeze({ __proto__: null, right: "right", wrong: "wrong" });

const mark = (right) => made("span", { class: `mark ${right ? "right" : "wrong"}` }, right ? "✓ right" : "✗ wrong");

function sideHead(side, level) {
  const part = made("div", {});
  if (side.title) part.append(made(`h${level}`, { class: "side-title" }, foreign(side.title)));
  part.append(made("p", { class: "answer" }, "Answer: ", made("strong", {}, foreign(side.answer || "none")), " ", mark(side.right)));
  if (side.reply) part.append(made("p", { class: "label" }, "Reply as written"), made("p", { class: "reply", dir: "auto" }, side.reply));
  return part;
}

function statedFacts(question) {
  const facts = made("dl", { class: "facts" });
  const add = (name, ...texts) => {
    const list = texts.flatMap((text, index) => [index ? "; " : "", foreign(text)]);
    facts.append(made("div", {}, made("dt", {}, name), made("dd", {}, ...list)));
  };
  add("Accepted answers", ...question.accepted);
  if (question.relation) add("Relation", question.relation);
  if (question.marks.length) add("Marked", question.marks.join(", "));
  add("Id", question.id);
  return facts;
}

const MISSING = "It is left out of this page to keep it small; the run's records hold it.";

// ------------------------------------------------------------------------------------------------------ questions

/** The list of a run's questions, what it is narrowed down to, and the question that is open. */
class Questions {
  constructor(part) {
    this.part = part;
    this.run = part.dataset.run;
    const { measures, asked } = data(`${this.run}-questions`);
    this.measures = measures;
    this.asked = asked;
    this.level = Number(part.querySelector("h2, h3").tagName[1]) + 1;
    this.list = part.querySelector(".listed");
    this.panel = part.querySelector(".panel");
    this.hint = this.panel.firstElementChild;
    this.options = asked.map((question, index) => this.option(question, index));
    this.texts = asked.map((q) => folded([q.text, q.answer, ...q.accepted, q.id, q.relation].join("\n")));
    this.open = null; // index of the question in the panel
    this.shading = ""; // title of the numbers that prompts are shaded by; empty for spans
    this.prepareControls();
    this.prepareKeys();
    this.narrow();
  }

  control(name) {
    return this.part.querySelector(`.question-${name}`);
  }

  option(question, index) {
    const replied = made("span", { class: "replied" }, foreign(question.answer));
    for (const name of question.marks) replied.append(" · ", made("span", { class: MARK_COLOURS[name] ?? "" }, foreign(name)));
    const attributes = { role: "option", id: `${this.run}-o${index}`, "aria-selected": "false" };
    const option = made("div", attributes, made("span", { class: "asked" }, foreign(question.text)), replied);
    option.append(made("span", { class: "value" }));
    option.addEventListener("click", () => this.opened(index, true));
    return option;
  }

  prepareControls() {
    const choice = ([value, text]) => made("option", { value }, text);
    const relations = [...new Set(this.asked.map((question) => question.relation).filter(Boolean))].sort();
    this.control("relation").append(...[["", "all"], ...relations.map((name) => [name, name])].map(choice));
    this.control("relation").parentElement.hidden = relations.length < 2;
    this.control("sort").append(...[["", "order asked"], ...this.measures.entries()].map(choice));
    const marks = [...new Set(this.asked.flatMap((question) => question.marks))];
    for (const name of marks) {
      const count = this.asked.filter((question) => question.marks.includes(name)).length;
      const box = made("input", { type: "checkbox", value: name });
      this.part.querySelector(".marks").append(made("label", {}, box, " ", foreign(name), ` (${count})`));
    }
    this.part.querySelector(".marks").hidden = marks.length === 0;
    this.part.querySelector(".controls").addEventListener("input", () => this.narrow());
  }

  /** Shows the questions that fit the search, the relation and all ticked marks, in the chosen order. */
  narrow() {
    const wanted = folded(this.control("search").value);
    const relation = this.control("relation").value;
    const marks = [...this.part.querySelectorAll(".marks input:checked")].map((box) => box.value);
    const fits = (index) =>
      this.texts[index].includes(wanted) &&
      (!relation || this.asked[index].relation === relation) &&
      marks.every((name) => this.asked[index].marks.includes(name));
    this.shown = this.sorted([...this.asked.keys()].filter(fits));
    this.list.replaceChildren(...this.shown.map((index) => this.options[index]));
    this.part.querySelector(".controls .status").textContent = `${this.shown.length} of ${this.asked.length} questions`;
    this.select();
  }

  sorted(indices) {
    const measure = this.control("sort").value;
    const direction = Number(this.control("order").value);
    this.control("order").disabled = measure === "";
    const value = (index) => this.asked[index].values[Number(measure)];
    for (const index of indices) {
      this.options[index].lastChild.textContent = measure === "" ? "" : digits(value(index));
    }
    return measure === "" ? indices : indices.sort((a, b) => compared(value(a), value(b), direction));
  }

  prepareKeys() {
    const moves = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1, Home: -Infinity, End: Infinity };
    this.list.addEventListener("keydown", (event) => {
      if (event.key in moves && !event.ctrlKey && !event.metaKey) this.moved(moves[event.key]);
      else if (event.key === "Enter" && this.shown.length) this.opened(this.open ?? this.shown[0], true);
      else return;
      event.preventDefault();
    });
    this.panel.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey) return;
      if (event.key === "j" || event.key === "k") this.moved(moves[event.key]);
    });
    this.part.querySelector(".browse").addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.closed();
    });
  }

  /** Opens the question that stands so many places further down in the list. */
  moved(places) {
    if (!this.shown.length) return;
    const now = this.shown.indexOf(this.open);
    const place = now === -1 ? (places === Infinity ? Infinity : 0) : now + places;
    this.opened(this.shown[Math.min(this.shown.length - 1, Math.max(0, place))]);
  }

  /** Opens a question by its index. jump: takes the reader to it where it stands below the list. */
  opened(index, jump = false) {
    const focused = this.panel.contains(document.activeElement);
    this.open = index;
    this.panel.replaceChildren(...this.content(this.asked[index], data(`${this.run}-q${index}`)));
    this.select();
    history.replaceState(null, "", this.address(index));
    if (focused) this.panel.focus({ preventScroll: true });
    if (jump && this.panel.offsetLeft === this.list.offsetLeft) this.panel.scrollIntoView();
  }

  closed() {
    if (this.open === null) return;
    this.open = null;
    this.panel.replaceChildren(this.hint);
    this.select();
    history.replaceState(null, "", location.pathname + location.search);
    this.list.focus();
  }

  /** Marks the open question in the list, where it is there. */
  select() {
    this.list.querySelector("[aria-selected=true]")?.setAttribute("aria-selected", "false");
    this.list.removeAttribute("aria-activedescendant");
    const option = this.open === null ? null : this.options[this.open];
    if (!option?.isConnected) return;
    option.setAttribute("aria-selected", "true");
    this.list.setAttribute("aria-activedescendant", option.id);
    const top = option.offsetTop - this.list.offsetTop;
    const room = this.list.clientHeight - option.offsetHeight;
    this.list.scrollTop = Math.min(top, Math.max(top - room, this.list.scrollTop));
  }

  /** The link to a question. */
  address(index) {
    const run = lists.length > 1 || document.querySelectorAll(".run").length > 1 ? `r=${this.run.slice(1)}&` : "";
    return `#${run}q=${encodeURIComponent(this.asked[index].id)}`;
  }

  /** Opens the question of this id, whatever the list was narrowed down to. Returns whether there is one. */
  followed(id) {
    const index = this.asked.findIndex((question) => question.id === id);
    if (index === -1) return false;
    this.opened(index);
    this.panel.scrollIntoView();
    return true;
  }

  content(question, detail) {
    const title = made(`h${this.level}`, { id: `${this.run}-opened` }, foreign(question.text));
    const parts = [this.bar(), title, statedFacts(question)];
    if (detail === null) return [...parts, made("p", { class: "left-out" }, `What opens with this question: ${MISSING}`)];
    if (detail.short) parts.push(made("p", { class: "left-out" }, `The prompt: ${MISSING}`));
    const scale = scaleOf(detail.sides);
    this.prompts = [];
    const sides = detail.sides.map((side) => this.side(side, scale, this.level + 1));
    if (this.prompts.length) {
      const shadings = this.shadings(detail.sides);
      if (sides.length > 1) parts.push(shadings); // one choice for both
      else this.prompts[0][1].before(shadings);
    }
    this.shade();
    return [...parts, made("div", { class: "sides" }, ...sides), ...this.numbers(question)];
  }

  /** The numbers that the list is sorted by, of one question. */
  numbers(question) {
    const title = "All numbers of this question";
    const known = [...this.measures.keys()].filter((index) => question.values[index] !== null);
    const rows = known.map((index) => [this.measures[index], digits(question.values[index])]);
    return rows.length ? [unfolding(title, () => smallTable(["number", "value"], rows, title))] : [];
  }

  /** The panel's buttons: the question before, the one after, close; and the link to this one. */
  bar() {
    const button = (text, act) => {
      const element = made("button", { type: "button" }, text);
      element.addEventListener("click", act);
      return element;
    };
    const link = made("a", { href: this.address(this.open) }, "Link to this question");
    return made(
      "div",
      { class: "controls" },
      button("Previous", () => this.moved(-1)),
      button("Next", () => this.moved(1)),
      button("Close", () => this.closed()),
      link,
    );
  }

  side(side, scale, level) {
    const below = side.title ? level + 1 : level;
    const part = made("section", { class: "side" }, sideHead(side, level));
    if (side.tokens.length) {
      const place = made("div", { class: "prompt" });
      this.prompts.push([side, place]);
      part.append(made(`h${below}`, {}, "Prompt"), place);
    }
    part.append(...side.bars.map((bars) => barsPart(bars, scale, below)));
    part.append(...side.tables.map((table) => tablePart(table, below)));
    return part;
  }

  /** What prompts can be shaded by; the choice holds for the questions opened next as well. */
  shadings(sides) {
    const titles = [...new Set(sides.flatMap((side) => side.shades.map((shades) => shades.title)))];
    const choices = ["", ...titles].map((title) => {
      const radio = made("input", { type: "radio", name: `${this.run}-shading`, value: title });
      radio.checked = title === (titles.includes(this.shading) ? this.shading : "");
      return made("label", {}, radio, " ", title ? foreign(title) : "Spans of the prompt");
    });
    const group = made("fieldset", { class: "shadings" }, made("legend", {}, "Shade the tokens by"), ...choices);
    group.addEventListener("change", (event) => {
      this.shading = event.target.value;
      this.shade();
    });
    return group;
  }

  shade() {
    for (const [side, place] of this.prompts) place.replaceChildren(...prompt(side, this.shading));
  }
}

const lists = [];
document.querySelectorAll(".questions").forEach((part) => lists.push(new Questions(part)));

/** Opens the question that the address names: #q=id, and with several runs #r=number&q=id. */
function followAddress() {
  const address = new URLSearchParams(location.hash.slice(1));
  if (!address.has("q")) return;
  const chosen = lists.filter((list) => !address.has("r") || list.run === `r${address.get("r")}`);
  chosen.some((list) => list.followed(address.get("q")));
}

addEventListener("hashchange", followAddress);
followAddress();

// ------------------------------------------------------------------------------------------------------- printing

/** On paper nothing can be unfolded: all is open while the page is printed. */
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details:not([open])")) {
    details.open = true;
    details.dataset.closed = "";
  }
});

addEventListener("afterprint", () => {
  for (const details of document.querySelectorAll("details[data-closed]")) {
    details.open = false;
    delete details.dataset.closed;
  }
});
