"use strict";
/* The table of items. Data reach the page as text alone: nothing here reads markup. */
(() => {
  const PAGE = 25;
  function element(tag, kind, text) {
    const made = document.createElement(tag);
    if (kind) made.className = kind;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function table(data) {
    const find = document.getElementById("find"), kind = document.getElementById("kind");
    const label = document.getElementById("label"), count = document.getElementById("count");
    const place = document.getElementById("table");
    for (const item of data.items) {
      const said = item.replies.flatMap((one) => [one.text, one.read || ""]);
      item.words = [item.id, item.answer, ...item.turns.map((turn) => turn[1]), ...said].join("\n").toLowerCase();
    }
    const whole = element("table", "items");
    whole.append(element("caption", "unseen", "Items of test with the replies to them"));
    const head = element("tr");
    for (const name of ["question and expected answer", ...data.subjects]) {
      const cell = element("th", "", name);
      cell.scope = "col";
      head.append(cell);
    }
    const top = element("thead"), body = element("tbody");
    top.append(head);
    whole.append(top, body);
    const further = element("button");
    further.type = "button";
    place.append(whole, further);
    let found = [], shown = 0;

    function add(most = PAGE) {
      const first = shown;
      for (const item of found.slice(shown, shown + most)) body.append(row(item, data));
      shown = Math.min(found.length, shown + most);
      offer();
      return body.children[first];
    }

    function offer() {
      further.hidden = shown >= found.length;
      further.textContent = `Show ${Math.min(PAGE, found.length - shown)} more`;
    }

    function filter() {
      const words = find.value.trim().toLowerCase();
      found = data.items.filter(
        (item) =>
          (!words || item.words.includes(words)) &&
          (!kind.value || item.kinds.includes(kind.value)) &&
          (!label || !label.value || item.answer === data.labels[Number(label.value)])
      );
      body.replaceChildren();
      shown = 0;
      add();
      count.textContent = `${found.length} of ${data.items.length} ${data.items.length === 1 ? "item" : "items"}`;
    }

    /* On paper nobody asks for more: all that is found stands there, and its count says how many that are. */
    let before = 0;
    window.addEventListener("beforeprint", () => {
      before = shown;
      add(found.length);
    });
    window.addEventListener("afterprint", () => {
      while (body.children.length > before) body.lastChild.remove();
      shown = before;
      offer();
    });

    further.addEventListener("click", () => {
      const next = add();
      if (next && further.hidden) next.querySelector("button").focus();
    });
    const form = document.getElementById("filters");
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", filter);
    for (const link of document.querySelectorAll("[data-label]")) {
      link.addEventListener("click", () => {
        label.value = link.dataset.label;
        filter();
      });
    }
    form.hidden = false;
    filter();
  }

  function row(item, data) {
    const made = element("tr"), first = element("th");
    first.scope = "row";
    const last = item.turns.length ? item.turns[item.turns.length - 1][1] : item.id;
    const asked = element("span", "asked", last);
    asked.dir = "auto";
    first.append(asked);
    if (item.answer) first.append(element("span", "expected", `expected: ${item.answer}`));
    const button = element("button", "", "Details");
    button.type = "button";
    button.setAttribute("aria-expanded", "false");
    button.setAttribute("aria-label", `Details of ${item.id}`);
    first.append(button);
    made.append(first);
    item.replies.forEach((reply, n) => made.append(cell(reply, item, data, n)));
    button.addEventListener("click", () => {
      const open = made.classList.toggle("open");
      button.setAttribute("aria-expanded", String(open));
      button.textContent = open ? "Close" : "Details";
      if (open) details(made, item, data);
      else for (const more of made.querySelectorAll(".more")) more.remove();
    });
    return made;
  }

  function cell(reply, item, data, n) {
    const made = element("td");
    made.dataset.name = data.subjects[n];
    const value = element("span", reply.full ? "value full" : "value", reply.score);
    value.title = "score of the greedy reply";
    const text = element("div", "reply");
    text.dir = "auto";
    if (n === 2 && item.pieces.length) tokens(text, item, data.marks);
    else text.textContent = reply.text || "(empty)";
    made.append(value, text);
    if (reply.read === null) made.append(element("span", "read", "nothing was read of it"));
    else if (reply.read.trim() !== reply.text.trim()) made.append(element("span", "read", `read: ${reply.read}`));
    return made;
  }

  /* Tokens that end no character are joined to the next one, with the largest of their divergences. */
  function tokens(place, item, marks) {
    let most = 0;
    item.pieces.forEach((piece, n) => {
      most = Math.max(most, item.nats[n]);
      const last = n === item.pieces.length - 1;
      if (!piece && !last) return;
      const marked = most >= marks.least && most > 0;
      const made = marked ? element("mark", "", piece || "∎") : document.createTextNode(piece);
      if (marked) {
        made.style.setProperty("--heat-share", String(Math.min(1, most / marks.most)));
        made.title = `${most.toFixed(3)} nats${piece ? "" : ", where it ends"}`;
      }
      place.append(made);
      most = 0;
    });
  }

  function details(made, item, data) {
    const first = made.querySelector("th"), cells = made.querySelectorAll("td");
    for (const [role, text] of item.turns.slice(0, -1)) first.append(element("span", "more", `${role}: ${text}`));
    first.append(element("span", "more", item.id));
    item.replies.forEach((reply, n) => {
      const said = [`sampled, mean score: ${reply.sampled}`];
      if (reply.cut) said.push("cut at the horizon");
      if (reply.feedback) said.push(`why: ${reply.feedback}`);
      cells[n].append(element("span", "more", said.join("\n")));
    });
    if (item.pieces.length && cells[2]) {
      const worst = item.nats.map((nats, n) => [nats, item.pieces[n] || "(a part, or the end)"]);
      worst.sort((a, b) => b[0] - a[0]);
      const listed = worst.slice(0, 5).map(([nats, piece]) => `${JSON.stringify(piece)} ${nats.toFixed(3)}`);
      cells[2].append(element("span", "more", `furthest from the prompted model, in nats: ${listed.join(", ")}`));
    }
  }

  table(JSON.parse(document.getElementById("items-data").textContent));
})();
