"use strict";

// Tables: a press on a heading sorts by it, a second one turns the order round.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const up = heading.getAttribute("aria-sort") !== "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", up ? "ascending" : "descending");
      const numeric = heading.dataset.kind === "number";
      const key = (row) => {
        const cell = row.cells[column];
        const raw = cell.dataset.value ?? cell.textContent.trim();
        return numeric ? (raw === "" ? NaN : Number(raw)) : raw;
      };
      const compare = (a, b) => {
        const [x, y] = [key(a), key(b)];
        if (numeric && (Number.isNaN(x) || Number.isNaN(y))) return Number.isNaN(x) - Number.isNaN(y);
        const order = numeric ? x - y : x.localeCompare(y, "en", { numeric: true });
        return up ? order : -order;
      };
      table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
    });
  });
}

// The comparison: two of four pictures of one place, a divider, and how far apart they are.
const store = document.getElementById("crops");
if (store) {
  const crops = JSON.parse(store.textContent);
  const find = (id) => document.getElementById(id);
  const titles = { int8: "int8", fp32: "fp32", bicubic: "bicubic", truth: "ground truth" };
  const stops = [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]];
  const colour = (t) => {
    const at = Math.min(Math.max(t, 0), 1) * (stops.length - 1);
    const i = Math.min(Math.floor(at), stops.length - 2);
    return stops[i].map((low, c) => low + (at - i) * (stops[i + 1][c] - low));
  };
  let shown = 0;
  let turn = 0;

  const pixels = async (uri) => {
    const image = new Image();
    image.src = uri;
    await image.decode();
    const canvas = document.createElement("canvas");
    canvas.width = image.naturalWidth;
    canvas.height = image.naturalHeight;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    return context.getImageData(0, 0, canvas.width, canvas.height);
  };

  const drawHeat = async (left, right) => {
    const mine = ++turn;
    const uris = crops[shown].pixels;
    const [a, b] = await Promise.all([pixels(uris[left]), pixels(uris[right])]);
    if (mine !== turn) return;
    const gaps = new Float32Array(a.width * a.height);
    for (let i = 0; i < gaps.length; i++) {
      for (let c = 0; c < 3; c++) gaps[i] += Math.abs(a.data[4 * i + c] - b.data[4 * i + c]) / 3;
    }
    const sorted = Float32Array.from(gaps).sort();
    const top = Math.max(Math.ceil(sorted[Math.floor(0.999 * (sorted.length - 1))]), 1);
    const mean = gaps.reduce((sum, gap) => sum + gap, 0) / gaps.length;
    const heat = find("heat");
    heat.width = a.width;
    heat.height = a.height;
    const out = new ImageData(a.width, a.height);
    gaps.forEach((gap, i) => out.data.set([...colour(gap / top), 255], 4 * i));
    heat.getContext("2d").putImageData(out, 0, 0);
    const words = `|${titles[left]} − ${titles[right]}|: mean ${mean.toFixed(2)} of 255`;
    find("heat-title").textContent = words;
    heat.setAttribute("aria-label", `Error heat map, ${words}`);
    find("scale-end").textContent = `${top} levels and more`;
  };

  const show = () => {
    const crop = crops[shown];
    const [left, right] = [find("left-pick").value, find("right-pick").value];
    for (const [side, name] of [["left", left], ["right", right]]) {
      find(`${side}-image`).src = crop.pixels[name];
      find(`${side}-image`).alt = `${titles[name]}, ${crop.image}, ${crop.place}`;
      find(`${side}-name`).textContent = titles[name];
    }
    const psnr = Object.entries(crop.psnr).map(([n, v]) => `${n} ${v === null ? "exact" : v.toFixed(2) + " dB"}`);
    find("caption").textContent =
      `${crop.image}, ${crop.place}: int8 and fp32 are ${crop.difference.toFixed(2)} levels apart (RMS). ` +
      `PSNR here: ${psnr.join(", ")}.`;
    [...find("thumbs").children].forEach((b, i) => b.setAttribute("aria-pressed", String(i === shown)));
    drawHeat(left, right);
  };

  crops.forEach((crop, i) => {
    const button = document.createElement("button");
    const image = new Image();
    image.src = crop.pixels.int8;
    image.alt = `Place ${i + 1}: ${crop.image}`;
    button.type = "button";
    button.append(image);
    button.addEventListener("click", () => { shown = i; show(); });
    find("thumbs").append(button);
  });
  const move = () => find("compare").style.setProperty("--split", `${find("split").value}%`);
  find("split").addEventListener("input", move);
  find("left-pick").addEventListener("change", show);
  find("right-pick").addEventListener("change", show);
  const strip = find("scale").getContext("2d");
  const ramp = new ImageData(128, 1);
  for (let i = 0; i < 128; i++) ramp.data.set([...colour(i / 127), 255], 4 * i);
  strip.putImageData(ramp, 0, 0);
  move();
  show();
}
