// Where each noun is: boxes and brush strokes on the photograph, in its own pixels. Runs inside gr.HTML, which gives
// `element`, `props`, `trigger` and `watch`. The server sets props.photo, props.words and props.load; what is drawn goes
// back as JSON in props.value: {photo, boxes: [{noun, x, y, w, h}], masks: {noun: PNG}, points: [{noun, x, y, inside}]}.
const MOST = 1024;        // pixels of the longer side of a brushed layer
const UNDOS = 30;
const REGION = '#region'; // stands in a noun's place: where edits may change the image
const $ = name => element.querySelector(`[data-part=${name}]`);
const canvas = $('canvas'), pen = canvas.getContext('2d'), image = new Image();
const st = {photo: '', w: 0, h: 0, frame: null, nouns: [], colours: [], active: 0, tool: 'box', size: 8,
            boxes: [], layers: new Map(), points: [], can: {}};
let undo = [], stroke = null, ratio = 1, loaded = '';

const named = noun => noun === REGION ? 'region of the edit' : noun;
const keys = () => st.photo && st.nouns.length ? [...st.nouns, REGION] : [];
const active = () => keys()[st.active];
const colour = noun => noun === REGION ? '#00a3a3' : st.colours[st.nouns.indexOf(noun) % st.colours.length] || '#888';
const boxesOf = noun => st.boxes.filter(box => box.noun === noun);
const isPlaced = noun => boxesOf(noun).length > 0 || st.layers.has(noun);
const within = (value, low, high) => Math.min(high, Math.max(low, value));
const say = text => { $('said').textContent = text; };

function make(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith('on')) made.addEventListener(key.slice(2), value);
    else if (value !== false && value != null) made.setAttribute(key, value === true ? '' : value);
  }
  made.append(...children);
  return made;
}

// ---- layers: a noun's brushed pixels
function layer(noun) {
  if (!st.layers.has(noun)) {
    const k = Math.min(1, MOST / Math.max(st.w, st.h));
    st.layers.set(noun, make('canvas', {width: Math.max(1, Math.round(st.w * k)), height: Math.max(1, Math.round(st.h * k))}));
  }
  return st.layers.get(noun);
}
function copied(source) {
  const made = make('canvas', {width: source.width, height: source.height});
  made.getContext('2d').drawImage(source, 0, 0);
  return made;
}
function isEmpty(source) {
  const data = source.getContext('2d').getImageData(0, 0, source.width, source.height).data;
  for (let i = 3; i < data.length; i += 4) if (data[i] > 127) return false;
  return true;
}
function brush(noun, from, to, tool) {
  const target = layer(noun), k = target.width / st.w, g = target.getContext('2d');
  g.globalCompositeOperation = tool === 'eraser' ? 'destination-out' : 'source-over';
  g.strokeStyle = colour(noun);
  g.lineCap = g.lineJoin = 'round';
  g.lineWidth = Math.max(1, st.size / 100 * Math.min(target.width, target.height));
  g.beginPath();
  g.moveTo(from.x * k, from.y * k);
  g.lineTo(to.x * k + .01, to.y * k);
  g.stroke();
}
function fillBoxes(noun) { // before the first erasing: what is a box becomes brushed
  for (const box of boxesOf(noun)) {
    const target = layer(noun), k = target.width / st.w, g = target.getContext('2d');
    g.globalCompositeOperation = 'source-over';
    g.fillStyle = colour(noun);
    g.fillRect(Math.round(box.x * k), Math.round(box.y * k), Math.round(box.w * k), Math.round(box.h * k));
  }
  st.boxes = st.boxes.filter(box => box.noun !== noun);
}

// ---- what is remembered, and what is told
function remember() {
  undo.push({boxes: st.boxes.map(box => ({...box})), layers: new Map([...st.layers].map(([n, l]) => [n, copied(l)])),
             points: [...st.points]});
  if (undo.length > UNDOS) undo.shift();
}
function send(event = 'input') {
  const masks = Object.fromEntries([...st.layers].map(([noun, source]) => [noun, source.toDataURL('image/png')]));
  props.value = JSON.stringify({photo: st.photo, boxes: st.boxes, masks, points: st.points});
  trigger(event);
}
function changed(event) { draw(); list(); send(event); }
function restore() {
  if (!undo.length) return say('nothing to undo');
  Object.assign(st, undo.pop());
  say('undone');
  changed();
}
function clear(noun) {
  if (!noun || !isPlaced(noun)) return;
  remember();
  st.boxes = st.boxes.filter(box => box.noun !== noun);
  st.points = st.points.filter(point => point.noun !== noun);
  st.layers.delete(noun);
  say(`${named(noun)}: cleared`);
  changed();
}
function put(noun, box, more = false) {
  const x = within(Math.round(box.x), 0, st.w - 1), y = within(Math.round(box.y), 0, st.h - 1);
  const made = {noun, x, y, w: within(Math.round(box.x + box.w) - x, 1, st.w - x), h: within(Math.round(box.y + box.h) - y, 1, st.h - y)};
  st.boxes = (more ? st.boxes : st.boxes.filter(other => other.noun !== noun)).concat([made]);
  say(`${named(noun)}: box of ${made.w} × ${made.h} pixels at ${made.x}, ${made.y}`);
}

// ---- the picture
function fit() {
  const stage = $('stage'), wide = stage.clientWidth;
  if (!st.photo || !wide) return;
  const shown = Math.min(wide, Math.max(240, .72 * window.innerHeight) * st.w / st.h);
  ratio = window.devicePixelRatio || 1;
  canvas.style.width = `${shown}px`;
  canvas.style.height = `${shown * st.h / st.w}px`;
  canvas.width = Math.round(shown * ratio);
  canvas.height = Math.round(shown * st.h / st.w * ratio);
  draw();
}
function draw() {
  if (!st.photo) return;
  const k = canvas.width / st.w;
  pen.clearRect(0, 0, canvas.width, canvas.height);
  pen.imageSmoothingQuality = 'high';
  if (image.complete && image.naturalWidth) pen.drawImage(image, 0, 0, canvas.width, canvas.height);
  if (st.frame) { // what the model doesn't see is dimmed
    const [x, y, w, h] = st.frame.map(value => value * k);
    pen.fillStyle = 'rgba(20, 20, 24, .62)';
    pen.beginPath();
    pen.rect(0, 0, canvas.width, canvas.height);
    pen.rect(x, y, w, h);
    pen.fill('evenodd');
  }
  pen.globalAlpha = .5;
  const words = keys(); // what belongs to words that the prompt has no more is kept, and not shown
  for (const [noun, source] of st.layers) if (words.includes(noun)) pen.drawImage(source, 0, 0, canvas.width, canvas.height);
  pen.globalAlpha = 1;
  for (const box of st.boxes) if (words.includes(box.noun)) frame(box, k);
  if (stroke && stroke.box) frame({...stroke.box, noun: stroke.noun}, k);
  for (const point of st.points) {
    pen.fillStyle = point.inside ? colour(point.noun) : '#fff';
    pen.strokeStyle = '#fff';
    pen.lineWidth = 2 * ratio;
    pen.beginPath();
    pen.arc(point.x * k, point.y * k, 5 * ratio, 0, 7);
    pen.fill();
    pen.stroke();
  }
  if (stroke && stroke.at && st.tool !== 'box') {
    pen.strokeStyle = '#fff';
    pen.lineWidth = ratio;
    pen.beginPath();
    pen.arc(stroke.at.x * k, stroke.at.y * k, st.size / 200 * Math.min(canvas.width, canvas.height), 0, 7);
    pen.stroke();
  }
}
function frame(box, k) {
  const ours = box.noun === active(), c = colour(box.noun), text = named(box.noun);
  const [x, y, w, h] = [box.x * k, box.y * k, box.w * k, box.h * k];
  pen.fillStyle = c;
  pen.globalAlpha = ours ? .22 : .12;
  pen.fillRect(x, y, w, h);
  pen.globalAlpha = 1;
  pen.strokeStyle = c;
  pen.lineWidth = (ours ? 3 : 2) * ratio;
  pen.strokeRect(x, y, w, h);
  pen.font = `600 ${12 * ratio}px system-ui, sans-serif`;
  const wide = pen.measureText(text).width + 10 * ratio, tall = 18 * ratio, top = y >= tall ? y - tall : y;
  pen.fillRect(x - ratio, top, wide, tall);
  pen.fillStyle = '#fff';
  pen.fillText(text, x + 4 * ratio, top + 13 * ratio);
  if (ours) for (const [cx, cy] of [[x, y], [x + w, y], [x, y + h], [x + w, y + h]]) {
    pen.fillStyle = '#fff';
    pen.fillRect(cx - 4 * ratio, cy - 4 * ratio, 8 * ratio, 8 * ratio);
    pen.strokeRect(cx - 4 * ratio, cy - 4 * ratio, 8 * ratio, 8 * ratio);
  }
}

// ---- words and numbers beside it
function choose(k) { st.active = k; draw(); list(); }
function list() {
  const focused = document.activeElement && element.contains(document.activeElement) && document.activeElement.dataset.key;
  const words = keys();
  st.active = within(st.active, 0, Math.max(0, words.length - 1));
  $('nouns').replaceChildren(...words.map((noun, k) => make('button', {
    type: 'button', role: 'radio', 'aria-checked': String(k === st.active), tabindex: k === st.active ? 0 : -1,
    'data-key': `noun-${k}`, class: `noun${noun === REGION ? ' region' : ''}`, style: `--noun: ${colour(noun)}`,
    title: noun === REGION ? 'where edits may change the image, if you want to say it yourself' : `${k + 1} on the keyboard`,
    onclick: () => choose(k),
  }, make('i', {}), named(noun), make('b', {}, isPlaced(noun) ? '✓' : noun === REGION ? '' : '–'))));
  for (const button of element.querySelectorAll('[data-tool]')) {
    button.setAttribute('aria-pressed', String(button.dataset.tool === st.tool));
    button.disabled = !words.length || (button.dataset.tool === 'point' && !st.can.point);
  }
  for (const name of ['undo', 'clear']) $(name).disabled = !words.length || (name === 'undo' ? !undo.length : !isPlaced(active()));
  $('find').disabled = !words.length || !st.can.find;
  $('hint').hidden = Boolean(st.photo);
  canvas.hidden = !st.photo;
  $('size').parentElement.hidden = !['brush', 'eraser'].includes(st.tool);
  const rows = [];
  words.forEach((noun, k) => {
    const mine = boxesOf(noun);
    for (const [n, box] of (mine.length ? mine : [null]).entries()) {
      const number = side => make('input', {
        type: 'number', min: 0, max: side === 'x' || side === 'w' ? st.w : st.h, step: 1, value: box ? box[side] : '',
        'data-key': `${k}-${n}-${side}`, 'aria-label': `${named(noun)} ${{x: 'left', y: 'top', w: 'width', h: 'height'}[side]}`,
        placeholder: '–', onchange: event => typed(noun, box, side, event.target.value),
      });
      rows.push(make('tr', {}, make('th', {scope: 'row', style: `--noun: ${colour(noun)}`}, make('i', {}), named(noun)),
        ...['x', 'y', 'w', 'h'].map(side => make('td', {}, number(side)))));
    }
  });
  $('rows').replaceChildren(...rows);
  if (focused) element.querySelector(`[data-key="${focused}"]`)?.focus();
}
function typed(noun, box, side, text) {
  const value = Number(text);
  if (text === '' || !Number.isFinite(value)) return list();
  remember();
  const next = {x: 0, y: 0, w: st.w, h: st.h, ...box, [side]: value};
  if (box) { const others = st.boxes; put(noun, next); st.boxes = others.map(other => other === box ? st.boxes[st.boxes.length - 1] : other); }
  else put(noun, next);
  st.active = keys().indexOf(noun);
  changed();
}

// ---- mouse, pen and finger
const at = event => {
  const r = canvas.getBoundingClientRect();
  return {x: within((event.clientX - r.left) * st.w / r.width, 0, st.w), y: within((event.clientY - r.top) * st.h / r.height, 0, st.h)};
};
function corner(noun, p) { // the opposite corner of the one that is taken hold of
  const reach = 9 * st.w / canvas.clientWidth;
  for (const box of boxesOf(noun)) for (const [dx, dy] of [[0, 0], [1, 0], [0, 1], [1, 1]]) {
    if (Math.hypot(box.x + dx * box.w - p.x, box.y + dy * box.h - p.y) < reach)
      return {box, x: box.x + (1 - dx) * box.w, y: box.y + (1 - dy) * box.h};
  }
  return null;
}
canvas.addEventListener('pointerdown', event => {
  const noun = active();
  if (!noun || event.button) return;
  event.preventDefault();
  canvas.focus({preventScroll: true});
  canvas.setPointerCapture(event.pointerId);
  const p = at(event);
  remember();
  if (st.tool === 'point') {
    if (noun === REGION) { undo.pop(); return say('points find nouns; draw the region by box or brush'); }
    st.points.push({noun, x: Math.round(p.x), y: Math.round(p.y), inside: !event.altKey});
    draw();
    send('point');
    return;
  }
  const held = st.tool === 'box' ? corner(noun, p) : null;
  if (held) st.boxes = st.boxes.filter(box => box !== held.box);
  const from = held || p;
  stroke = {noun, id: event.pointerId, x: from.x, y: from.y, at: p, more: event.shiftKey || Boolean(held)};
  if (st.tool === 'eraser') fillBoxes(noun);
  if (st.tool === 'box') stroke.box = null; else brush(noun, p, p, st.tool);
  draw();
});
canvas.addEventListener('pointermove', event => {
  if (!stroke || event.pointerId !== stroke.id) return;
  const p = at(event);
  if (st.tool === 'box') stroke.box = {x: Math.min(p.x, stroke.x), y: Math.min(p.y, stroke.y), w: Math.abs(p.x - stroke.x), h: Math.abs(p.y - stroke.y)};
  else brush(stroke.noun, stroke.at, p, st.tool);
  stroke.at = p;
  draw();
});
function finish(event) {
  if (!stroke || event.pointerId !== stroke.id) return;
  const {noun, box, more} = stroke, k = canvas.clientWidth / st.w;
  stroke = null;
  if (st.tool === 'box') {
    if (!box || box.w * k < 4 || box.h * k < 4) { Object.assign(st, undo.pop()); draw(); return; } // a click draws nothing
    put(noun, box, more);
  } else if (isEmpty(layer(noun))) st.layers.delete(noun);
  else say(`${named(noun)}: brushed`);
  changed();
}
canvas.addEventListener('pointerup', finish);
canvas.addEventListener('pointercancel', event => { if (stroke && event.pointerId === stroke.id) { stroke = null; Object.assign(st, undo.pop()); draw(); } });

// ---- keys
const ARROWS = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
let moving = 0;
canvas.addEventListener('keydown', event => {
  const noun = active(), box = boxesOf(noun).at(-1), way = ARROWS[event.key], tools = {b: 'box', p: 'brush', e: 'eraser'};
  if (!noun || event.metaKey) return;
  if (event.ctrlKey) { if (event.key !== 'z') return; restore(); }
  else if (/^[1-9]$/.test(event.key) && keys()[event.key - 1]) choose(event.key - 1);
  else if (tools[event.key]) { st.tool = tools[event.key]; list(); }
  else if (event.key === 'Enter' && !box) { remember(); put(noun, {x: st.w / 4, y: st.h / 4, w: st.w / 2, h: st.h / 2}, true); changed(); }
  else if (event.key === 'Delete' || event.key === 'Backspace') clear(noun);
  else if (way && box) {
    if (!event.repeat) remember();
    const step = Math.max(1, Math.round(Math.max(st.w, st.h) / 100)), [dx, dy] = way.map(v => v * step);
    if (event.shiftKey) { box.w = within(box.w + dx, 1, st.w - box.x); box.h = within(box.h + dy, 1, st.h - box.y); }
    else { box.x = within(box.x + dx, 0, st.w - box.w); box.y = within(box.y + dy, 0, st.h - box.h); }
    say(`${named(noun)}: box of ${box.w} × ${box.h} pixels at ${box.x}, ${box.y}`);
    draw();
    list();
    clearTimeout(moving);
    moving = setTimeout(send, 200, 'input');
  } else return;
  event.preventDefault();
});
$('nouns').addEventListener('keydown', event => {
  const way = {ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1}[event.key], count = keys().length;
  if (!way || !count) return;
  event.preventDefault();
  choose((st.active + way + count) % count);
  element.querySelector(`[data-key="noun-${st.active}"]`).focus();
});
for (const button of element.querySelectorAll('[data-tool]')) button.addEventListener('click', () => { st.tool = button.dataset.tool; list(); });
$('size').addEventListener('input', event => { st.size = Number(event.target.value); });
$('undo').addEventListener('click', restore);
$('clear').addEventListener('click', () => clear(active()));
$('find').addEventListener('click', () => send('find'));

// ---- from the server
const read = name => { try { return JSON.parse(props[name] || 'null'); } catch { return null; } };
function photo() { // another photograph, with nothing drawn on it
  const given = read('photo');
  if (!given || given.id === st.photo) return;
  Object.assign(st, {photo: given.id, w: given.w, h: given.h, frame: given.frame, boxes: [], layers: new Map(), points: []});
  undo = [];
  image.onload = fit;
  image.src = given.src;
  list();
  fit();
  const next = read('load');
  if (!next || next.photo !== st.photo || next.serial === loaded) send(); // else load() does
}
function words() {
  const given = read('words');
  if (!given) return;
  const before = active();
  Object.assign(st, {nouns: given.nouns, colours: given.colours, frame: given.frame, can: given.can});
  st.active = Math.max(0, keys().indexOf(before));
  list();
  draw();
}
async function load() { // a drawing, in place of what is there; for some nouns only where `some` names them
  const given = read('load');
  if (!given || given.photo !== st.photo || given.serial === loaded) return;
  loaded = given.serial;
  remember();
  const some = given.some || [...new Set([...st.boxes.map(box => box.noun), ...st.layers.keys(), ...keys()])];
  st.boxes = st.boxes.filter(box => !some.includes(box.noun)).concat(given.boxes);
  for (const noun of some) st.layers.delete(noun);
  if (!given.some) st.points = [];
  for (const [noun, source] of Object.entries(given.masks)) {
    const drawn = new Image();
    drawn.src = source;
    await drawn.decode();
    const target = layer(noun), g = target.getContext('2d');
    g.drawImage(drawn, 0, 0, target.width, target.height);
    g.globalCompositeOperation = 'source-in';
    g.fillStyle = colour(noun);
    g.fillRect(0, 0, target.width, target.height);
  }
  changed();
}
new ResizeObserver(fit).observe($('stage'));
watch('photo', photo);
watch('words', words);
watch('load', load);
list();
words();
photo();
load();
