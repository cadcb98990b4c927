"use strict";
// The viewer of a page. Names come from traced programs: they become text of elements and of canvases, and nothing else.
(() => {
const data = JSON.parse(document.getElementById("data").textContent);
const names = data.names;
const at = id => document.getElementById(id);
const ROW = 18, LABELS = 250, LEAST = 0.4, DEEPEST = 700, FONT = "12px system-ui, sans-serif";

// Numbers as people read them, and elements.
function time(ns) {
  const sign = ns < 0 ? "-" : "";
  const n = Math.abs(ns);
  const [part, unit] = n < 1e3 ? [n, "ns"] : n < 1e6 ? [n / 1e3, "µs"] : n < 1e9 ? [n / 1e6, "ms"] : [n / 1e9, "s"];
  return sign + (n < 1e3 ? String(Math.round(part)) : part.toFixed(part < 10 ? 2 : part < 100 ? 1 : 0)) + " " + unit;
}
const about = data.is_estimate ? "~" : "";
const took = ns => about + time(ns);
const count = n => n.toLocaleString("en");
const percent = (part, whole) => whole > 0 ? (100 * part / whole).toFixed(1) + " %" : "-";
const many = (n, one, several) => count(n) + " " + (n === 1 ? one : several);
function make(tag, text, kind) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (kind) element.className = kind;
  return element;
}
const colour = name => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();

// What is chosen on the page.
const chosen = { mode: "wall", idle: false, invert: false, widths: "now", search: "", found: null };

// The tree.
const flames = data.flames;
const frames = flames.name.length;
const isWait = new Set(flames.waits);
function own(before) {
  const of = kind => before ? flames[kind + "_before"] : flames[kind];
  const [run, wait, idle] = [of("run"), of("wait"), of("idle")];
  const values = new Float64Array(frames);
  if (before && !data.compares) return values;
  for (let i = 0; i < frames; i++) {
    if (chosen.mode !== "off") values[i] += run[i] || 0;
    if (chosen.mode !== "cpu") values[i] += wait[i] || 0;
    if (chosen.idle && chosen.mode !== "cpu") values[i] += idle[i] || 0;
  }
  return values;
}
function inclusive(values) {
  const all = Float64Array.from(values);
  for (let i = frames - 1; i >= 0; i--) if (flames.caller[i] >= 0) all[flames.caller[i]] += all[i];
  return all;
}
let called = null;
function calledBy() {
  if (called) return called;
  called = Array.from({ length: frames + 1 }, () => null);
  for (let i = 0; i < frames; i++) {
    const caller = flames.caller[i] < 0 ? frames : flames.caller[i];
    (called[caller] ||= []).push(i);
  }
  return called;
}
// An item is a box of the picture. What it has called is found out when it is drawn.
let tree = null;
function grow() {
  const mine = [own(false), own(true)];
  const whole = mine.map(inclusive);
  const roots = calledBy()[frames] || [];
  const sum = which => roots.reduce((all, i) => all + whole[which][i], 0);
  const root = { name: "all", now: sum(0), before: sum(1), own: 0, ownBefore: 0, up: null, kids: null, depth: 0, frame: frames };
  tree = { root, mine, whole, zoom: root, selected: root };
  if (chosen.invert) root.members = null;
}
const width = item => chosen.widths === "before" ? item.before : item.now;
function kids(item) {
  if (item.kids) return item.kids;
  item.kids = chosen.invert ? callers(item) : calls(item);
  item.kids.sort((a, b) => width(b) - width(a) || (a.name < b.name ? -1 : 1));
  return item.kids;
}
function calls(item) {
  const { mine, whole } = tree;
  return (calledBy()[item.frame] || []).map(i => ({
    name: names[flames.name[i]], id: flames.name[i], wait: isWait.has(i), now: whole[0][i], before: whole[1][i],
    own: mine[0][i], ownBefore: mine[1][i], up: item, kids: null, depth: item.depth + 1, frame: i,
  })).filter(kid => kid.now > 0 || kid.before > 0);
}
// Inverted: below a function stands who called it, with the time that it took itself.
function callers(item) {
  const { mine } = tree;
  const groups = new Map();
  const put = (place, frame) => {
    const id = flames.name[place];
    let kid = groups.get(id);
    if (!kid) {
      kid = { name: names[id], id, wait: isWait.has(place), now: 0, before: 0, own: 0, ownBefore: 0, up: item, kids: null,
        depth: item.depth + 1, members: [] };
      groups.set(id, kid);
    }
    kid.now += mine[0][frame];
    kid.before += mine[1][frame];
    kid.members.push([place, frame]);
  };
  if (item === tree.root) {
    for (let i = 0; i < frames; i++) if (mine[0][i] > 0 || mine[1][i] > 0) put(i, i);
    for (const kid of groups.values()) [kid.own, kid.ownBefore] = [kid.now, kid.before];
  } else {
    for (const [place, frame] of item.members) if (flames.caller[place] >= 0) put(flames.caller[place], frame);
  }
  return [...groups.values()];
}

// The flame graph.
const canvas = at("flame-canvas");
let boxes = [];
function sized(canvas, wide, high) {
  const ratio = Math.min(window.devicePixelRatio || 1, 30000 / high);
  canvas.width = Math.round(wide * ratio);
  canvas.height = Math.round(high * ratio);
  canvas.style.width = wide + "px";
  canvas.style.height = high + "px";
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  pen.font = FONT;
  pen.textBaseline = "middle";
  return pen;
}
const across = canvas => Math.max(280, canvas.parentElement.clientWidth);
function layout(wide) {
  boxes = [];
  const path = [];
  for (let item = tree.zoom; item; item = item.up) path.unshift(item);
  for (const [row, item] of path.entries()) boxes.push({ item, x: 0, w: wide, row });
  const open = [{ item: tree.zoom, x: 0, row: path.length - 1, scale: wide / (width(tree.zoom) || 1) }];
  let deepest = path.length;
  while (open.length) {
    const { item, x, row, scale } = open.pop();
    if (row + 1 >= DEEPEST) continue;
    let from = x;
    for (const kid of kids(item)) {
      const w = width(kid) * scale;
      if (w < LEAST) break;
      boxes.push({ item: kid, x: from, w, row: row + 1 });
      deepest = Math.max(deepest, row + 2);
      open.push({ item: kid, x: from, row: row + 1, scale });
      from += w;
    }
  }
  return deepest;
}
function hue(text) {
  let hash = 7;
  for (let i = 0; i < text.length; i++) hash = (hash * 31 + text.charCodeAt(i)) | 0;
  return Math.abs(hash);
}
function paint(item) {
  if (item === tree.root) return ["#c9d1d9", "#111"];
  if (data.compares) {
    const { now, before } = tree.root;
    const change = (now > 0 ? item.now / now : 0) - (before > 0 ? item.before / before : 0);
    const much = Math.min(1, Math.abs(change) * 8);
    const light = Math.round(92 - 42 * much);
    return [`hsl(${change > 0 ? 4 : 212} ${much > 0.004 ? 75 : 0}% ${light}%)`, light < 62 ? "#fff" : "#111"];
  }
  if (item.wait) return ["#8fb3d9", "#111"];
  const number = hue(item.name);
  return [`hsl(${18 + number % 34} ${70 + number % 23}% ${60 + (number >> 5) % 12}%)`, "#111"];
}
function cut(pen, text, room) {
  if (room < 16) return "";
  const fits = Math.floor(room / 6.6);
  if (text.length <= fits && pen.measureText(text).width <= room) return text;
  let length = Math.min(text.length, fits + 4);
  while (length > 1 && pen.measureText(text.slice(0, length) + "…").width > room) length--;
  return length > 1 ? text.slice(0, length) + "…" : "";
}
function drawFlames() {
  const wide = across(canvas);
  const rows = layout(wide);
  const pen = sized(canvas, wide, rows * ROW + 2);
  pen.clearRect(0, 0, wide, rows * ROW + 2);
  for (const { item, x, w, row } of boxes) {
    const [fill, ink] = paint(item);
    const isFound = !chosen.found || chosen.found.has(item.id);
    pen.globalAlpha = isFound ? (item.depth < tree.zoom.depth ? 0.6 : 1) : 0.25;
    pen.fillStyle = fill;
    pen.fillRect(x, row * ROW, Math.max(w - 0.5, 0.3), ROW - 1);
    const text = cut(pen, item.name, w - 6);
    if (text) {
      pen.fillStyle = isFound ? ink : colour("text");
      if (!isFound) pen.globalAlpha = 0.8;
      pen.fillText(text, x + 3, row * ROW + ROW / 2);
    }
  }
  pen.globalAlpha = 1;
  const box = boxes.find(box => box.item === tree.selected);
  if (box) {
    pen.strokeStyle = colour("select");
    pen.lineWidth = 2;
    pen.strokeRect(box.x + 1, box.row * ROW + 1, Math.max(box.w - 2.5, 1), ROW - 3);
  }
  at("reset").disabled = tree.zoom === tree.root;
  describe(tree.selected);
}
function describe(item) {
  if (!(tree.root.now > 0 || tree.root.before > 0)) {
    at("flame-status").textContent = "nothing took time of this kind" + (chosen.idle ? "" : "; Idleness shows what waited for work");
    return;
  }
  const parts = [`${item.name}: ${took(item.now)}, ${percent(item.now, tree.root.now)}`];
  if (!chosen.invert && item !== tree.root) parts.push(`itself ${took(item.own)}`);
  if (data.compares) parts.push(`compared with ${took(item.before)}, ${percent(item.before, tree.root.before)}`);
  if (tree.zoom !== tree.root) parts.push(`zoomed to ${tree.zoom.name}`);
  at("flame-status").textContent = parts.join("; ");
}
function select(item) {
  tree.selected = item;
  drawFlames();
  const box = boxes.find(box => box.item === item);
  const view = canvas.parentElement;
  if (!box) return;
  const y = box.row * ROW;
  if (y < view.scrollTop) view.scrollTop = y;
  else if (y + ROW > view.scrollTop + view.clientHeight) view.scrollTop = y + ROW - view.clientHeight;
}
function zoom(item) {
  tree.zoom = item;
  select(item);
}
function boxAt(event) {
  const place = canvas.getBoundingClientRect();
  const [x, row] = [event.clientX - place.left, Math.floor((event.clientY - place.top) / ROW)];
  return boxes.find(box => box.row === row && x >= box.x && x < box.x + Math.max(box.w, 1));
}
canvas.addEventListener("mousemove", event => {
  const box = boxAt(event);
  canvas.style.cursor = box ? "pointer" : "default";
  canvas.title = box ? box.item.name : "";
  describe(box ? box.item : tree.selected);
});
canvas.addEventListener("mouseleave", () => describe(tree.selected));
canvas.addEventListener("click", event => {
  const box = boxAt(event);
  if (box) zoom(box.item);
});
canvas.addEventListener("keydown", event => {
  const item = tree.selected;
  const beside = step => {
    const all = item.up ? kids(item.up) : [item];
    return all[all.indexOf(item) + step] || item;
  };
  const moves = {
    ArrowDown: () => select(kids(item)[0] || item), ArrowUp: () => select(item.up || item),
    ArrowLeft: () => select(beside(-1)), ArrowRight: () => select(beside(1)),
    Home: () => select(tree.zoom), Enter: () => zoom(item), " ": () => zoom(item),
    Escape: () => zoom(tree.zoom.up || tree.root), Backspace: () => zoom(tree.zoom.up || tree.root),
  };
  const move = moves[event.key];
  if (!move || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  event.stopPropagation();
  // Nothing of what is selected stays outside of the picture.
  move();
  for (let up = tree.selected; up !== tree.zoom; up = up.up) if (!up) { zoom(tree.selected); break; }
});

// The timeline.
const line = at("time-canvas");
const timeline = data.timeline;
const LANE = 24;
const cursor = { row: 0, bin: 0 };
function drawTimeline() {
  const status = at("time-status");
  if (!timeline || !timeline.rows.length) {
    line.hidden = true;
    status.textContent = data.is_estimate ? "samples do not say when they were taken" : "no call was seen that took time";
    return;
  }
  const wide = Math.max(across(line), LABELS + 200);
  const high = timeline.rows.length * LANE + 22;
  const pen = sized(line, wide, high);
  const step = (wide - LABELS) / timeline.bins;
  const paints = ["run", "wait", "idle"].map(kind => [kind, colour(kind)]);
  const [text, dim, gc, select] = ["text", "dim", "gc", "select"].map(colour);
  for (const [number, row] of timeline.rows.entries()) {
    const top = number * LANE;
    const isProcess = row.whose === "process";
    pen.font = (isProcess ? "600 " : "") + FONT;
    pen.fillStyle = chosen.found && !chosen.found.has(row.label) ? dim : text;
    const indent = { process: 2, thread: 14, context: 26 }[row.whose];
    pen.fillText(cut(pen, names[row.label], LABELS - indent - 8), indent, top + LANE / 2);
    const all = i => (row.run[i] || 0) + (row.wait[i] || 0) + (row.idle[i] || 0);
    let full = 1000;
    for (let i = 0; i < timeline.bins; i++) full = Math.max(full, all(i));
    for (let i = 0; i < timeline.bins; i++) {
      let y = top + LANE - 3;
      for (const [kind, fill] of paints) {
        const part = (row[kind][i] || 0) / full * (LANE - 6);
        if (part <= 0) continue;
        const high = Math.max(part, 0.6);
        pen.fillStyle = fill;
        pen.fillRect(LABELS + i * step, y - high, step + 0.3, high);
        y -= high;
      }
      const collects = (row.collect[i] || 0) / 1000;
      if (collects > 0) {
        pen.fillStyle = gc;
        pen.fillRect(LABELS + i * step, top + 1, Math.max(step, 1), Math.max(2, Math.min(1, collects) * 6));
      }
    }
  }
  pen.font = FONT;
  pen.fillStyle = dim;
  for (let part = 0; part <= 5; part++) {
    const word = time(timeline.width * timeline.bins * part / 5);
    const wordWide = pen.measureText(word).width;
    pen.fillText(word, Math.min(LABELS + (wide - LABELS) * part / 5, wide - wordWide - 2), high - 10);
  }
  pen.strokeStyle = select;
  pen.strokeRect(LABELS + cursor.bin * step - 0.5, cursor.row * LANE + 1, Math.max(step, 2) + 1, LANE - 2);
  tell(cursor.row, cursor.bin);
}
function tell(number, bin) {
  const row = timeline.rows[number];
  if (!row) return;
  const share = kind => (row[kind][bin] || 0) / 10;
  const parts = [["run", "running"], ["wait", "waiting"], ["idle", "idle"], ["collect", "collecting garbage"]]
    .filter(([kind]) => share(kind) > 0).map(([kind, word]) => `${share(kind).toFixed(1)} % ${word}`);
  const most = row.most[bin] ?? -1;
  const mostly = most < 0 ? "" : `; most of it in ${names[most]} (at least ${((row.at_least[bin] || 0) / 10).toFixed(1)} %)`;
  const all = [["running", 0], ["waiting", 1], ["idle", 2], ["collecting", 3]]
    .filter(([, i]) => row.all[i] > 0).map(([word, i]) => `${word} ${time(row.all[i])}`);
  at("time-status").textContent = `${names[row.label]}, ${time(timeline.width * bin)} to ${time(timeline.width * (bin + 1))}: `
    + (parts.join(", ") || "nothing seen") + mostly + `; in all ${all.join(", ") || "nothing"}`;
}
function binAt(event) {
  const place = line.getBoundingClientRect();
  const step = (place.width - LABELS) / timeline.bins;
  const bin = Math.floor((event.clientX - place.left - LABELS) / step);
  const row = Math.floor((event.clientY - place.top) / LANE);
  return row < timeline.rows.length ? { row, bin: Math.max(0, Math.min(timeline.bins - 1, bin)) } : null;
}
function seek() {
  const most = timeline.rows[cursor.row].most[cursor.bin] ?? -1;
  if (most >= 0) find(names[most]);
}
line.addEventListener("mousemove", event => {
  const place = binAt(event);
  if (place) tell(place.row, place.bin);
});
line.addEventListener("click", event => {
  const place = binAt(event);
  if (place) { Object.assign(cursor, place); drawTimeline(); }
});
line.addEventListener("dblclick", seek);
line.addEventListener("keydown", event => {
  const moves = {
    ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1],
    PageUp: [0, -20], PageDown: [0, 20], Home: [0, -1e6], End: [0, 1e6],
  };
  if (event.key === "Enter") return seek();
  const move = moves[event.key];
  if (!move || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  cursor.row = Math.max(0, Math.min(timeline.rows.length - 1, cursor.row + move[0]));
  cursor.bin = Math.max(0, Math.min(timeline.bins - 1, cursor.bin + move[1]));
  drawTimeline();
  const view = line.parentElement;
  const y = cursor.row * LANE;
  if (y < view.scrollTop) view.scrollTop = y;
  else if (y + LANE > view.scrollTop + view.clientHeight) view.scrollTop = y + LANE - view.clientHeight;
});

// The table of functions.
const functions = data.functions.rows;
const ownTime = row => row.own - (chosen.idle ? 0 : row.idle);
const cumulative = row => row.cumulative < 0 ? -1 : Math.max(0, row.cumulative - (chosen.idle ? 0 : row.idle_cumulative));
const before = row => row.before || { own: 0, idle: 0, cumulative: 0, idle_cumulative: 0, calls: 0 };
const ownBefore = row => before(row).own - (chosen.idle ? 0 : before(row).idle);
const known = ns => ns < 0 ? "-" : took(ns);
const longest = row => row.durations ? row.durations.max : -1;
const change = ns => (ns > 0 ? "+" : "") + took(ns);
let wholeOwn = 1;
const columns = [
  !data.is_estimate && ["calls", "Calls", row => row.calls, row => count(row.calls)],
  ["own", data.is_filtered ? "Self*" : "Self", ownTime, row => took(ownTime(row))],
  ["share", "%", ownTime, row => (100 * ownTime(row) / wholeOwn).toFixed(1)],
  ["cumulative", "Cumulative", cumulative, row => known(cumulative(row))],
  data.compares && ["change", "Self, change", row => ownTime(row) - ownBefore(row), row => change(ownTime(row) - ownBefore(row))],
  !data.is_estimate && ["average", "Mean", row => row.average, row => known(row.average)],
  !data.is_estimate && ["p95", "P95", row => row.durations ? row.durations.p95 : -1, row => known(row.durations ? row.durations.p95 : -1)],
  !data.is_estimate && ["max", "Max", longest, row => (row.durations?.is_bound ? "≤" : "") + known(longest(row))],
  data.has_waits && ["off", data.is_estimate ? "Waiting" : "Off", row => (row.off || [0])[0], row => took((row.off || [0])[0])],
  data.has_waits && !data.is_estimate && ["runq", "Run queue", row => (row.off || [0, 0])[1], row => took((row.off || [0, 0])[1])],
  data.has_waits && !data.is_estimate && ["gil", "GIL", row => (row.off || [0, 0, 0])[2], row => took((row.off || [0, 0, 0])[2])],
  ["function", "Function", row => names[row.function], row => names[row.function]],
  ["place", "File", row => names[row.place], row => names[row.place]],
].filter(Boolean);
const sorting = { by: data.compares ? "change" : "own", down: true, shown: 200 };
function heading(table, cells) {
  const head = table.tHead.rows[0];
  head.replaceChildren(...cells.map(([text, isText]) => {
    const cell = make("th", text, isText ? "text" : "");
    cell.scope = "col";
    return cell;
  }));
}
function drawTable() {
  const table = at("table");
  const head = table.tHead.rows[0];
  if (!head.cells.length) for (const [key, title] of columns) {
    const isText = key === "function" || key === "place";
    const cell = make("th", undefined, isText ? "text" : "");
    cell.scope = "col";
    const button = make("button", title);
    button.type = "button";
    button.addEventListener("click", () => {
      sorting.down = sorting.by === key ? !sorting.down : !isText;
      sorting.by = key;
      drawTable();
    });
    cell.append(button);
    head.append(cell);
  }
  columns.forEach(([key, title], i) => {
    const isIt = key === sorting.by;
    head.cells[i].setAttribute("aria-sort", isIt ? (sorting.down ? "descending" : "ascending") : "none");
    head.cells[i].firstChild.textContent = title + (isIt ? (sorting.down ? " ▾" : " ▴") : "");
  });
  const others = data.functions;
  const othersOwn = others.others_own - (chosen.idle ? 0 : others.others_idle);
  wholeOwn = functions.reduce((all, row) => all + ownTime(row), othersOwn) || 1;
  const words = chosen.search.toLowerCase();
  const label = row => `${names[row.function]} (${names[row.place]})`.toLowerCase();
  const rows = functions.filter(row => !words || label(row).includes(words));
  const value = columns.find(([key]) => key === sorting.by)[2];
  const compare = (a, b) => a < b ? -1 : a > b ? 1 : 0;
  const rank = sorting.by === "change" ? row => Math.abs(value(row)) : value;
  rows.sort((a, b) => (sorting.down ? -1 : 1) * compare(rank(a), rank(b)) || compare(names[a.function], names[b.function]));
  const body = rows.slice(0, sorting.shown).map(row => {
    const line = make("tr");
    for (const [key, , value, text] of columns) {
      if (key === "function") {
        const button = make("button", text(row));
        button.type = "button";
        button.title = "Show in the flame graph";
        button.addEventListener("click", () => {
          const name = names[row.function].replace(/ \((resumed|maybe several)\)/g, "");
          find(`${name} (${names[row.place]}`);
          if (!chosen.found.size) find(name);
        });
        const cell = make("td", undefined, "text");
        cell.append(button);
        line.append(cell);
        continue;
      }
      const kind = key === "place" ? "text dim" : key !== "change" ? "" : value(row) > 0 ? "more" : "less";
      line.append(make("td", text(row), kind));
    }
    return line;
  });
  const isRest = others.others_calls > 0 || others.others_own > 0;
  if (isRest && !words) {
    const line = make("tr", undefined, "others");
    const said = { calls: count(others.others_calls), own: took(othersOwn), share: (100 * othersOwn / wholeOwn).toFixed(1),
      function: others.others ? many(others.others, "other function", "other functions") : "functions without a row" };
    for (const [key] of columns) line.append(make("td", said[key] || "", key === "function" ? "text" : ""));
    body.push(line);
  }
  table.tBodies[0].replaceChildren(...body);
  at("more").hidden = rows.length <= sorting.shown;
  at("table-status").textContent = functions.length === 0 ? "no function was seen"
    : `${many(rows.length, "function", "functions")}${words ? " found" : ""}, ${took(wholeOwn === 1 ? 0 : wholeOwn)} in all`
      + (data.is_filtered ? "; Self* has the time of functions in it that a filter leaves out" : "");
}
at("more").addEventListener("click", () => { sorting.shown += 500; drawTable(); });

// Distributions.
function bars(table, durations) {
  const most = Math.max(...durations.counts);
  table.tBodies[0].replaceChildren(...durations.counts.map((number, i) => {
    const bits = durations.bits + i;
    const [from, to] = bits === 0 ? [0, 1] : [2 ** (bits - 1), 2 ** bits];
    const line = make("tr");
    const bar = make("span", undefined, "bar");
    bar.style.width = 100 * number / most + "%";
    bar.hidden = number === 0;
    const cell = make("td", undefined, "text");
    cell.append(bar);
    line.append(make("td", `${time(from)} .. ${time(to)}`), make("td", count(number)), cell);
    return line;
  }));
}
const summary = durations => `${many(durations.count, "time", "times")}, ${time(durations.sum)} in all; shortest ${time(durations.min)}, `
  + `median about ${time(durations.p50)}, P95 about ${time(durations.p95)}, P99 about ${time(durations.p99)}, longest `
  + (durations.is_bound ? "at most " : "") + time(durations.max);
const measured = functions.filter(row => row.durations).slice(0, 1000);
function drawLatencies() {
  const list = at("latency-of");
  if (!list.options.length) list.append(...measured.map((row, i) => {
    const option = make("option", `${names[row.function]}  ${names[row.place]}`);
    option.value = String(i);
    return option;
  }));
  list.disabled = !measured.length;
  const row = measured[Number(list.value) || 0];
  at("latency-status").textContent = row ? summary(row.durations)
    : data.is_estimate ? "samples do not say how long a call took" : "no call ended whose duration is known";
  if (row) bars(at("latency"), row.durations);
}
at("latency-of").addEventListener("change", drawLatencies);

// Collections.
function drawPauses() {
  const all = data.generations;
  const collections = all.reduce((sum, it) => sum + it.count, 0);
  const paused = all.reduce((sum, it) => sum + (it.durations ? it.durations.sum : 0), 0);
  at("pause-status").textContent = collections ? `${many(collections, "collection", "collections")}, ${time(paused)} in all`
    : "no garbage collection was seen";
  for (const element of at("pauses").querySelectorAll("h2, table")) element.hidden = !collections;
  if (!collections) return;
  const generation = it => it.generation === null ? "unknown" : String(it.generation);
  heading(at("generations"), [["Generation", false], ["Collections", false], ["Objects", false], ["Paused", false], ["Longest", false]]);
  at("generations").tBodies[0].replaceChildren(...all.map(it => {
    const line = make("tr");
    const texts = [generation(it), count(it.count), count(it.collected), it.durations ? time(it.durations.sum) : "-",
      it.durations ? time(it.durations.max) : "-"];
    line.append(...texts.map(text => make("td", text)));
    return line;
  }));
  const known = all.filter(it => it.durations).map(it => it.durations);
  if (known.length) {
    const bits = Math.min(...known.map(it => it.bits));
    const end = Math.max(...known.map(it => it.bits + it.counts.length));
    const counts = Array.from({ length: end - bits }, (_, i) =>
      known.reduce((sum, it) => sum + (it.counts[bits + i - it.bits] || 0), 0));
    bars(at("pause-bars"), { bits, counts });
  }
  heading(at("longest"), [["At", false], ["Pause", false], ["Generation", false], ["Objects", false], ["Process", false],
    ["Thread", false], ["While in", true]]);
  at("longest").tBodies[0].replaceChildren(...data.pauses.map(it => {
    const line = make("tr");
    const texts = [time(it.at), time(it.pause), generation(it), count(it.collected), String(it.pid), String(it.tid)];
    line.append(...texts.map(text => make("td", text)), make("td", it.within < 0 ? "-" : names[it.within], "text"));
    return line;
  }));
}

function drawAbout() {
  at("facts").replaceChildren(...data.about.flatMap(([what, said]) => [make("dt", what), make("dd", said)]));
  const notes = data.notes.length ? data.notes : ["nothing that is known of"];
  at("notes").replaceChildren(...notes.map(note => make("li", note)));
}

// What is common to all views.
const views = { flames: drawFlames, timeline: drawTimeline, functions: drawTable, latencies: drawLatencies, pauses: drawPauses,
  about: drawAbout };
const tabs = [...at("tabs").children];
let view = "flames";
function show(name) {
  view = name;
  for (const tab of tabs) {
    const isIt = tab.id === "tab-" + name;
    tab.setAttribute("aria-selected", String(isIt));
    tab.tabIndex = isIt ? 0 : -1;
    at(tab.getAttribute("aria-controls")).hidden = !isIt;
  }
  const isFlames = name === "flames";
  for (const id of ["mode-label", "invert-label", "reset"]) at(id).hidden = !isFlames;
  at("widths-label").hidden = !isFlames || !data.compares;
  views[name]();
}
for (const [i, tab] of tabs.entries()) {
  tab.addEventListener("click", () => show(tab.getAttribute("aria-controls")));
  tab.addEventListener("keydown", event => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = tabs[(i + step + tabs.length) % tabs.length];
    next.focus();
    next.click();
  });
}
function again() {
  grow();
  views[view]();
}
function search(text) {
  chosen.search = text;
  const words = text.toLowerCase();
  chosen.found = words ? new Set() : null;
  if (words) names.forEach((name, i) => { if (name.toLowerCase().includes(words)) chosen.found.add(i); });
  let sum = 0;
  const inside = new Uint8Array(frames);
  const seen = new Set();
  if (words) for (let i = 0; i < frames; i++) {
    const isFound = chosen.found.has(flames.name[i]);
    if (isFound && tree.whole[0][i] > 0) seen.add(flames.name[i]);
    const caller = flames.caller[i];
    if (caller >= 0 && inside[caller]) inside[i] = 1;
    else if (isFound) { inside[i] = 1; sum += tree.whole[0][i]; }
  }
  at("matches").textContent = words ? `${many(seen.size, "function", "functions")}, ${percent(sum, tree.root.now)}` : "";
  views[view]();
}
// Shows in the flame graph where that is.
function find(text) {
  at("search").value = text;
  show("flames");
  search(text);
  canvas.focus();
}
function theme() {
  const isDark = colour("back") !== "#fff";
  document.documentElement.dataset.theme = isDark ? "light" : "dark";
  at("theme").textContent = isDark ? "Dark" : "Light";
  views[view]();
}
const keys = [
  ["1 … 6", "a view"], ["/", "search"], ["i", "invert the flame graph"], ["d", "idleness"], ["0", "zoom out"], ["t", "dark or light"],
  ["arrow keys", "move in the flame graph, the timeline and the row of views"], ["Enter", "zoom in; in the timeline, show the function"],
  ["Escape", "zoom out by one, or leave the search"], ["?", "this list"],
];
at("keys").append(...keys.flatMap(([key, what]) => [make("dt", key), make("dd", what)]));
at("help-button").addEventListener("click", () => at("help").showModal());
at("theme").addEventListener("click", theme);
at("reset").addEventListener("click", () => zoom(tree.root));
at("search").addEventListener("input", event => search(event.target.value));
at("search").addEventListener("keydown", event => {
  if (event.key !== "Escape" && event.key !== "Enter") return;
  event.preventDefault();
  if (event.key === "Escape") { event.target.value = ""; search(""); }
  (view === "timeline" ? line : view === "flames" ? canvas : event.target).focus();
});
at("mode").addEventListener("change", event => { chosen.mode = event.target.value; again(); });
at("widths").addEventListener("change", event => { chosen.widths = event.target.value; again(); });
at("idle").addEventListener("change", event => { chosen.idle = event.target.checked; again(); });
at("invert").addEventListener("change", event => { chosen.invert = event.target.checked; again(); });
document.addEventListener("keydown", event => {
  const typing = ["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName) && event.target.type !== "checkbox";
  if (typing || event.ctrlKey || event.metaKey || event.altKey || at("help").open) return;
  const number = Number(event.key);
  const acts = {
    "/": () => at("search").focus(), i: () => at("invert").click(), d: () => at("idle").click(), t: theme,
    0: () => zoom(tree.root), "?": () => at("help").showModal(),
  };
  if (number >= 1 && number <= tabs.length) tabs[number - 1].click();
  else if (Object.hasOwn(acts, event.key)) acts[event.key]();
  else return;
  event.preventDefault();
});
window.addEventListener("resize", () => views[view]());
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => views[view]());

document.title = data.title + " - pystap";
at("title").textContent = data.title;
at("subtitle").textContent = data.about.filter(([what]) => what === "duration" || what === "begun" || what === "compared with")
  .map(([what, said]) => what === "duration" ? said : `${what} ${said}`).join(", ");
at("estimate").hidden = !data.is_estimate;
at("losses").hidden = !data.notes.length;
at("losses").textContent = many(data.notes.length, "note", "notes") + " on what is missing";
at("theme").textContent = colour("back") !== "#fff" ? "Light" : "Dark";
for (const [value, text] of data.has_waits ? [["wall", "all"], ["cpu", "on processors"], ["off", "off processors"]] : [["wall", "on the clock"]]) {
  const option = make("option", text);
  option.value = value;
  at("mode").append(option);
}
at("idle").checked = false;
at("invert").checked = false;
grow();
show("flames");
document.documentElement.dataset.drawn = String(Math.round(performance.now()));
})();
